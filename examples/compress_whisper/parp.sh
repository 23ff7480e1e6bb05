#!/usr/bin/env bash
# PARP and what it is compared with on whisper-tiny.en, equal updates: parp.sh WHISPER DATA OUT [SEED [SPARSITY...]]
#   WHISPER   a checkpoint of scripts/import_whisper.py
#   DATA      the folder of split.py's manifests, train.tsv, choose.tsv and report.tsv; transcripts serve scoring alone
# ROWS="mpi parp" trains these alone. What is complete in OUT is not made again: a run that was stopped goes on, and
# OUT/results.jsonl gets what is new.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo="$(cd "$here/../.." && pwd)"
whisper="$(realpath "$1")" data="$(realpath "$2")" seed=${4:-1}
mkdir -p "$3"
out="$(cd "$3" && pwd)"
sparsities=("${@:5}")
[ ${#sparsities[@]} -gt 0 ] || sparsities=(0.5)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# clips of at most 6 s: an update then takes 2 s of one core
mkdir -p "$out/data"
awk -F'\t' 'NR == 1 || $4 <= 6 * 16000' "$data/train.tsv" > "$out/data/train.tsv"

run() { # name, keys: trains, and scores on the speakers to report
    [[ " ${ROWS:-${1%-[0-9]*}} " = *" ${1%-[0-9]*} "* ]] || return 0
    local folder="$out/seed$seed/$1"
    if [ ! -f "$folder/complete" ]; then
        mkdir -p "$folder"
        fairseq-hydra-train --config-dir "$here/config" --config-name parp_tiny_en hydra.run.dir="$folder" \
            common.user_dir="$repo/fairseq_prune" common.seed="$seed" task.data="$out/data" \
            checkpoint.save_dir="$folder" criterion.teacher_path="$whisper" "${@:2}" > "$folder/train.log" 2>&1
        touch "$folder/complete"
    fi
    score "$folder/checkpoint_last.pt" "$1"
}

score() { # checkpoint, name
    python "$here/score.py" --checkpoint "$1" --way "$2" --seed "$seed" --data "$data" --split report \
        --out "$out/results.jsonl"
}

score "$whisper" dense
for sparsity in "${sparsities[@]}"; do
    wanda="$out/wanda-$sparsity-seed$seed.pt"
    [ -f "$wanda" ] || python "$repo/scripts/prune_weights.py" --checkpoint "$whisper" --sparsity "$sparsity" \
        --manifest "$out/data" --minutes 2 --seed "$seed" --out "$wanda"
    keys=(model.whisper_path="$whisper" model.prune_sparsity="$sparsity")
    run "mpi-$sparsity" "${keys[@]}" model.prune_method=mpi
    run "parp-$sparsity" "${keys[@]}"
    run "wanda+hold-$sparsity" "${keys[@]}" model.whisper_path="$wanda" model.prune_method=mpi model.prune_scope=row
    run "wanda+parp-$sparsity" "${keys[@]}" model.whisper_path="$wanda" model.prune_scope=row
    run "omp-$sparsity" "${keys[@]}" model.prune_method=omp model.prune_start_update=50
    run "parp-p-$sparsity" "${keys[@]}" model.prune_method=parp-p
    run "random-$sparsity" "${keys[@]}" model.prune_method=random
done
run fine-tuned model.whisper_path="$whisper" model.prune_sparsity=0
python "$here/tables.py" --results "$out/results.jsonl"
