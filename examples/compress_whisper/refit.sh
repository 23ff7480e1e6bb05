#!/usr/bin/env bash
# Zeros by Wanda's score with and without least squares in what stays, not trained: refit.sh WHISPER DATA OUT [SPARSITY...]
#   WHISPER   a checkpoint of scripts/import_whisper.py
#   DATA      the folder of split.py's manifests, train.tsv and report.tsv; transcripts serve scoring alone
# MINUTES of speech are heard (default: 10). What is complete in OUT is not made again: a run that was stopped goes on,
# and OUT/results.jsonl gets what is new.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo="$(cd "$here/../.." && pwd)"
whisper="$1" data="$2" out="$3"
sparsities=("${@:4}")
[ ${#sparsities[@]} -gt 0 ] || sparsities=(0.3 0.5)
mkdir -p "$out"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

score() { # checkpoint, name, seed
    python "$here/score.py" --checkpoint "$1" --way "$2" --seed "$3" --data "$data" --split report \
        --out "$out/results.jsonl"
}

score "$whisper" dense 1
for seed in 1 2; do
    for sparsity in "${sparsities[@]}"; do
        for way in wanda wanda+refit; do
            sparse="$out/$way-$sparsity-seed$seed.pt"
            refit=()
            [ $way = wanda ] || refit=(--refit)
            # what scoring hears, too: of silence, one frame in 8
            [ -f "$sparse" ] || python "$repo/scripts/prune_weights.py" --checkpoint "$whisper" --sparsity "$sparsity" \
                --manifest "$data" --minutes "${MINUTES:-10}" --seed "$seed" --model-overrides "{'silence_stride': 8}" \
                --out "$sparse" "${refit[@]}"
            score "$sparse" "$way-$sparsity" "$seed"
        done
    done
done
python "$here/tables.py" --results "$out/results.jsonl"
