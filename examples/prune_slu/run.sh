#!/usr/bin/env bash
# PruneSLU on small data, with real weights: run.sh WHISPER SLURP_JSONL OUT
#   WHISPER      a folder of whisper-tiny.en (Hugging Face or CTranslate2)
#   SLURP_JSONL  dataset/slurp/devel.jsonl of github.com/pswietojanski/slurp; its sentences are spoken by espeak-ng
# What is there already is not made again: about an hour and a half on one core with BF16=true, for CPUs that have it.
set -euo pipefail
whisper=$1 slurp=$2
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo="$(cd "$here/../.." && pwd)"
mkdir -p "$3"
out="$(cd "$3" && pwd)"
teacher="$out/teacher/checkpoint_best.pt"

step() { # file that it writes, then the command
    [ -e "$1" ] || "${@:2}"
}

train() { # name, start, further keys
    local name=$1 start=$2
    shift 2
    [ -f "$out/$name/complete" ] && return
    fairseq-hydra-train --config-dir "$here/config" --config-name prune_slu hydra.run.dir="$out/$name" \
        common.user_dir="$repo/fairseq_prune" common.bf16="${BF16:-false}" task.data="$out/data" \
        checkpoint.save_dir="$out/$name" model.whisper_path="$start" "$@"
    touch "$out/$name/complete"
}

score() { # name, checkpoint
    local result="$out/scores/$1"
    [ -f "$result/scores.json" ] && return
    fairseq-generate "$out/data" --user-dir "$repo/fairseq_prune" --task spoken_language_understanding \
        --gen-subset test --path "$2" --beam 1 --max-len-b 60 --batch-size 32 --results-path "$result"
    python "$repo/scripts/score_slu.py" slurp --generated "$result/generate-test.txt" \
        --manifest "$out/data/test.tsv" --json > "$result/unfinished"
    mv "$result/unfinished" "$result/scores.json"
}

# sentences of SLURP, spoken: 24 intents with at least 30 sentences each; no sentence or voice of the test set is trained on
step "$out/texts" python "$repo/data_prep/prep_slurp.py" --train "$slurp" --hold-out 100 300 --min-intent-count 30 \
    --words --text-only --out "$out/texts"
step "$out/data" python "$repo/data_prep/make_speech.py" "$out/texts" --copies 2 --out "$out/data"

# import, and cut the vocabulary to what the parses need
step "$out/whisper.pt" python "$repo/scripts/import_whisper.py" --from "$whisper" --out "$out/whisper.pt"
step "$out/small" python "$repo/scripts/prune_vocab.py" --checkpoint "$out/whisper.pt" --text "$out/data/train.tsv" \
    --labels "$out/data/labels.txt" --heldout "$out/data/test.tsv" --out "$out/small"

# the teacher has all layers
alone="criterion.ce_weight=1 criterion.kl_weight=0 criterion.contrastive_weight=0"
train teacher "$out/small/whisper.pt" $alone

# the student has the last two of its four decoder layers
step "$out/pruned.pt" python "$repo/scripts/prune_layers.py" --checkpoint "$teacher" --decoder 3,4 --out "$out/pruned.pt"
students="optimization.max_update=${STUDENT_UPDATES:-1000} criterion.teacher_path=$teacher"
train ce "$out/pruned.pt" $students $alone
train kl "$out/pruned.pt" $students criterion.contrastive_weight=0
train kl-contrastive "$out/pruned.pt" $students

score teacher "$teacher"
score pruned "$out/pruned.pt"
for name in ce kl kl-contrastive; do
    score "$name" "$out/$name/checkpoint_best.pt"
done
python "$here/table.py" "$out" | tee "$out/table.md"

# for devices
step "$out/onnx" python "$repo/scripts/export.py" --checkpoint "$out/kl-contrastive/checkpoint_best.pt" --format onnx \
    --int8 --out "$out/onnx"
python "$repo/scripts/understand.py" --onnx "$out/onnx" "$(find "$out/data/audio/test" -name '*.flac' | sort | head -1)"
