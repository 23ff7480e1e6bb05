#!/usr/bin/env bash
# Fewer units, made up for by least squares, and an output in two looks, none of it trained:
#   structure.sh WHISPER DATA OUT [UNITS...]
#   WHISPER   a checkpoint of scripts/import_whisper.py
#   DATA      the folder of split.py's manifests, train.tsv and report.tsv; transcripts serve scoring alone
#   UNITS     that each feed-forward block keeps (default: 1280 of 1536)
# What is complete in OUT is not made again: a run that was stopped goes on. The table has error rates, and times that were
# taken in turns.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo="$(cd "$here/../.." && pwd)"
whisper="$1" data="$2" out="$3"
units=("${@:4}")
[ ${#units[@]} -gt 0 ] || units=(1280)
mkdir -p "$out"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

listen() { # script, checkpoint, file to write, seed, further options
    # hears what scoring hears: of silence, one frame in 8
    [ -f "$3" ] || python "$repo/scripts/$1" --checkpoint "$2" --out "$3" --seed "$4" --manifest "$data" --minutes 10 \
        --language en --model-overrides "{'silence_stride': 8}" "${@:5}"
}

models=("dense=$whisper")
listen preview_output.py "$whisper" "$out/dense-looks.pt" 1
models+=("dense, two looks=$out/dense-looks.pt")
for number in "${units[@]}"; do
    for seed in 1 2; do
        name="$out/units$number-seed$seed"
        listen prune_layers.py "$whisper" "$name.pt" "$seed" --units "$number" --rank activation --refit
        listen preview_output.py "$name.pt" "$name-looks.pt" "$seed"
        models+=("$number units, seed $seed=$name.pt" "$number units, seed $seed, two looks=$name-looks.pt")
    done
done
python "$here/gates_table.py" --data "$data" --out "$out/results.jsonl" --models "${models[@]}"
