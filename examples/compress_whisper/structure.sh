#!/usr/bin/env bash
# Fewer units or layers, made up for by least squares, and an output in two looks, none of it trained:
#   structure.sh WHISPER DATA OUT [SEED...]
#   WHISPER   a checkpoint of scripts/import_whisper.py
#   DATA      the folder of split.py's manifests, train.tsv and report.tsv; transcripts serve scoring alone
#   SEED      of the choice of speech (default: 1 2)
# MINUTES of speech are heard (default: 10). What is complete in OUT is not made again: a run that was stopped goes on.
# The table has error rates, and times that were taken in turns.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo="$(cd "$here/../.." && pwd)"
whisper="$1" data="$2" out="$3"
seeds=("${@:4}")
[ ${#seeds[@]} -gt 0 ] || seeds=(1 2)
mkdir -p "$out"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

listen() { # script, checkpoint, file to write, seed, further options
    # hears what scoring hears: of silence, one frame in 8
    [ -f "$3" ] || python "$repo/scripts/$1" --checkpoint "$2" --out "$3" --seed "$4" --manifest "$data" --minutes "${MINUTES:-10}" \
        --language en --model-overrides "{'silence_stride': 8}" "${@:5}"
}

models=("dense=$whisper")
listen preview_output.py "$whisper" "$out/dense-looks.pt" 1
models+=("dense, two looks=$out/dense-looks.pt")

add() { # name, file, options of prune_layers.py
    local file="$out/$2-seed$seed"
    listen prune_layers.py "$whisper" "$file.pt" "$seed" --refit "${@:3}"
    listen preview_output.py "$file.pt" "$file-looks.pt" "$seed"
    models+=("$1, seed $seed=$file.pt" "$1, seed $seed, two looks=$file-looks.pt")
}

for seed in "${seeds[@]}"; do
    add "1280 units" units1280 --units 1280 --rank activation
    add "decoder layers 1, 3, 4" layers134 --decoder 1,3,4
done
python "$here/gates_table.py" --data "$data" --out "$out/results.jsonl" --models "${models[@]}"
