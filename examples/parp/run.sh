#!/usr/bin/env bash
# PARP and its baselines on real spoken digits, about an hour on two cores: run.sh FSDD_DIR OUT [SEED]
# What is there already is not made again, so a run that was stopped goes on, and several may share OUT.
set -euo pipefail
fsdd=$1 seed=${3:-1}
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
mkdir -p "$2"
out="$(cd "$2" && pwd)"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# LONGRUN: a command that is put before each training and scoring, such as one that waits for a free processor
TIMEFORMAT="%R %U" # seconds that passed, and those of processor time

once() { # folder, command: nothing if it is complete, or if another run is at it
    local folder="$out/$1"
    shift
    mkdir -p "$folder"
    (
        flock --nonblock 9 || exit 0
        [ -f "$folder/complete" ] && exit 0
        "$@"
        touch "$folder/complete"
    ) 9> "$folder/lock"
}

train() { # folder, config, further keys
    local folder="$out/$1" config=$2
    shift 2
    { time ${LONGRUN:-} fairseq-hydra-train --config-dir "$repo/examples/parp/config" --config-name "$config" \
        hydra.run.dir="$folder" task.data="$out/data" checkpoint.save_dir="$folder" "$@" \
        > "$folder/train.log" 2>&1; } 2> "$folder/seconds"
}

recogniser() { # name, further keys: fine-tunes and scores
    local name="seed$seed/$1"
    shift
    train "$name" digits common.user_dir="$repo/fairseq_prune" common.seed="$seed" \
        model.w2v_path="$out/pretrained/checkpoint_last.pt" "$@"
    ${LONGRUN:-} python "$repo/scripts/transcribe.py" --checkpoint "$out/$name/checkpoint_last.pt" \
        --manifest "$out/data" --subset test --out "$out/$name/test" --overwrite --batch-seconds 200
}

[ -d "$out/data" ] || bash "$repo/examples/parp/prepare.sh" "$fsdd" "$out"
once pretrained train pretrained digits_pretraining common.user_dir="$repo/fairseq_prune"
once "seed$seed/dense" recogniser dense
for sparsity in 0.5 0.7 0.3; do
    for method in parp mpi omp random parp-p; do
        keys=(model.prune_method=$method model.prune_sparsity=$sparsity)
        # as in the paper, one-shot magnitude pruning is a second fine-tuning, with the mask of the dense model
        [ $method = omp ] && keys=(model.prune_method=mpi model.prune_sparsity=$sparsity
            checkpoint.finetune_from_model="$out/seed$seed/dense/checkpoint_last.pt")
        once "seed$seed/$method-$sparsity" recogniser "$method-$sparsity" "${keys[@]}"
    done
done
python "$repo/examples/parp/table.py" "$out"
