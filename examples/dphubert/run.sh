#!/usr/bin/env bash
# DPHuBERT on real spoken digits, about half an hour on one core: run.sh FSDD_DIR OUT
# What is there already is not made again. Needs the environment of scripts/setup_env.sh.
set -euo pipefail
fsdd=$1
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
mkdir -p "$2"
out="$(cd "$2" && pwd)"
export PYTHONPATH="$repo"
here="$repo/examples/dphubert"

train() { # configuration, name, further keys
    local config=$1 name=$2
    shift 2
    [ -f "$out/$name/complete" ] && return
    fairseq-hydra-train --config-dir "$here/config" --config-name "$config" hydra.run.dir="$out/$name" \
        common.user_dir="$repo/fairseq_prune" task.data="$out/data" checkpoint.save_dir="$out/$name" "$@"
    touch "$out/$name/complete"
}

without_gates() { # name, student, updates, further keys: distils into a model of fixed size
    train digits "$1" model.teacher_path="$teacher" model.student_path="$2" model.prune=none optimizer._name=adam \
        ~optimizer.gate_lr optimization.max_update="$3" lr_scheduler.total_num_update="$3" "${@:4}"
}

if [ ! -d "$out/data" ]; then
    python "$repo/data_prep/prep_digits.py" --fsdd "$fsdd" --out "$out/corpus" --sample-rate 16000 \
        --test-indices 5-9 --dev-indices 10-14 --train-pairs 2 4 --train-utterances 3000 \
        --dev-utterances 100 --test-utterances 50 --trim-db 40 --normalize rms
    python "$repo/data_prep/prep_audio.py" --audio "$out/corpus/en-de/data/train/wav" \
        --valid-audio "$out/corpus/en-de/data/dev/wav" --out "$out/data"
fi
[ -f "$out/data/dict.km.txt" ] || python "$here/mfcc_labels.py" "$out/data"

train digits_teacher teacher
teacher="$out/teacher/checkpoint_last.pt"

# stage 1 learns what to prune, stage 2 trains what is left
train digits stage1 model.teacher_path="$teacher"
[ -f "$out/pruned.pt" ] ||
    python "$repo/scripts/compress_hubert.py" --checkpoint "$out/stage1/checkpoint_last.pt" --out "$out/pruned.pt"
without_gates dphubert "$out/pruned.pt" 500 model.maps_path="$out/stage1/checkpoint_last.pt" optimization.lr='[0.0005]'

# of the same size, cut without learning, and distilled for as many updates as both stages together
for how in random uniform uniform-layers; do
    [ -f "$out/cut_$how.pt" ] ||
        python "$here/cut_untrained.py" --teacher "$teacher" --size-of "$out/pruned.pt" --how $how --out "$out/cut_$how.pt"
    without_gates $how "$out/cut_$how.pt" 2000
done
python "$here/table.py" --teacher "$teacher" --data "$out/data" --out "$out/report" \
    --models dphubert="$out/dphubert/checkpoint_last.pt" "cut at random=$out/random/checkpoint_last.pt" \
    "uniform=$out/uniform/checkpoint_last.pt" \
    "uniform, extractor whole=$out/uniform-layers/checkpoint_last.pt" --stage1 "$out/stage1/checkpoint_last.pt"
