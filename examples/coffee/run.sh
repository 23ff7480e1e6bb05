#!/usr/bin/env bash
# Coffee orders understood by a pruned Whisper: run.sh WHISPER CORPUS SPEECH OUT
#   WHISPER   a folder of whisper-tiny.en (Hugging Face or CTranslate2)
#   CORPUS    labels.json, audio/ and training_sentences.txt of github.com/Picovoice/speech-to-intent-benchmark
#   SPEECH    folders train and test with recordings of people, different ones: babble is made of them
# Needs the packages espeakng-loader and hibari-tts. What is there already is not made again.
set -euo pipefail
whisper=$1 corpus=$2 speech="$(cd "$3" && pwd)"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo="$(cd "$here/../.." && pwd)"
mkdir -p "$4"
out="$(cd "$4" && pwd)"
voices="en-us en-gb en-gb-scotland en-us-nyc en-029 en-gb-x-rp en-us+f1 en-us+f2 en-gb+f3 en-us+m2 en-gb+m3 en-us+m6
    en-gb+m5 en-us+klatt2 en-us+klatt4 en-us+Andrea en-us+steph en-gb+Alicia en-us+adam en-us+Michael en-us+linda
    en-gb+belinda en-us+rob en-us+paul"

step() { # file that it writes, then the command
    [ -e "$1" ] || "${@:2}"
}

prepare() { # folder that it writes, the program of data_prep, and its options
    step "$out/$1" python "$repo/data_prep/$2.py" "${@:3}" --out "$out/$1"
}

noisy() { # folder that it writes, then the manifests and options
    prepare "$1" make_noisy "${@:2}" --trim
}

data() { # folder: the manifests of a training, of what follows
    mkdir -p "$out/$1"
    cp "$out/$2/train.tsv" "$out/$3/dev.tsv" "$out/$1/"
}

train() { # name, start, updates, further keys
    [ -f "$out/$1/complete" ] && return
    fairseq-hydra-train --config-dir "$repo/examples/prune_slu/config" --config-name prune_slu \
        hydra.run.dir="$out/$1" common.user_dir="$repo/fairseq_prune" common.bf16="${BF16:-false}" \
        task.data="$out/data-$1" task.eval_slu=stop task.cache_audio=false checkpoint.save_dir="$out/$1" \
        checkpoint.best_checkpoint_metric=acceptance model.whisper_path="$2" criterion.ce_weight=1 \
        criterion.kl_weight=0 criterion.contrastive_weight=0 optimization.max_update="$3" \
        dataset.validate_interval_updates=200 checkpoint.save_interval_updates=200 \
        checkpoint.keep_interval_updates=1 "${@:4}"
    touch "$out/$1/complete"
}

score() { # name of the training, a test folder, a name of the result, options of understand.py that name the model
    local result="$out/scores/$1-$2-$3"
    [ -f "$result.json" ] && return
    mkdir -p "$out/scores"
    tail -n +2 "$out/$2/test.tsv" | cut -f 2 | tr '\n' '\0' |
        xargs -0 -x -s 1000000 python "$repo/scripts/understand.py" "${@:4}" > "$result.jsonl"
    python "$repo/scripts/score_slu.py" stop --answers "$result.jsonl" --manifest "$out/$2/test.tsv" --by-speaker \
        --json > "$result.unfinished"
    mv "$result.unfinished" "$result.json"
}

# the real recordings, and the training sentences spoken by two synthesisers
prepare recordings prep_picovoice --corpus "$corpus"
prepare texts prep_picovoice --corpus "$corpus" --text-only --variations 8
prepare spoken-espeak make_speech "$out/texts" --voices $voices --copies 1 --rate 130 200 --pitch 25 75
prepare spoken-hibari make_speech "$out/texts" --voices hibari --copies 1 --rate 140 210 --pitch 15 70

# in noise and rooms; people who are heard in the test's noise are in no other
training="--clean 0.35 --babble $speech/train"
noisy spoken-train "$out/spoken-hibari/train.tsv" "$out/spoken-espeak/train.tsv" $training --rooms 0.5 --snr 3 27
noisy spoken-dev "$out/spoken-espeak/dev.tsv" "$out/spoken-hibari/dev.tsv" $training --rooms 0.5
noisy real-train "$out/recordings/train.tsv" --copies 20 $training --rooms 0.3 --snr 3 27
noisy real-dev "$out/recordings/dev.tsv" --copies 3 $training
noisy clean "$out/recordings/test.tsv" --clean 1
noisy noise "$out/recordings/test.tsv" --each --babble "$speech/test"

# 518 tokens of 51,864, and two decoder layers of four
step "$out/whisper.pt" python "$repo/scripts/import_whisper.py" --from "$whisper" --out "$out/whisper.pt"
step "$out/small" python "$repo/scripts/prune_vocab.py" --checkpoint "$out/whisper.pt" \
    --text "$out/texts/train.texts.tsv" --labels "$out/texts/labels.txt" --out "$out/small"
step "$out/pruned.pt" python "$repo/scripts/prune_layers.py" --checkpoint "$out/small/whisper.pt" --decoder 3,4 \
    --out "$out/pruned.pt"

# first on what was synthesised alone, then on a half of it and on real recordings
data data-spoken spoken-train spoken-dev
train spoken "$out/pruned.pt" 500
data data-real real-train real-dev
awk "NR > 1 && NR % 2 == 0" "$out/spoken-train/train.tsv" >> "$out/data-real/train.tsv"
train real "$out/spoken/checkpoint_best.pt" 320 optimization.lr=[0.0001]

for name in spoken real; do
    step "$out/$name-int8" python "$repo/scripts/export.py" --checkpoint "$out/$name/checkpoint_best.pt" \
        --format onnx --int8 --out "$out/$name-int8"
    for test in clean noise; do
        score $name $test int8 --onnx "$out/$name-int8"
    done
done
python "$here/table.py" "$out" | tee "$out/table.md"
