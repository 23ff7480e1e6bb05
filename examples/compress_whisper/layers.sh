#!/usr/bin/env bash
# Make a decoder of two layers of whisper-tiny.en's four, by dropping and by merging, and train both:
# layers.sh WHISPER DATA OUT [KEYS...]
#   WHISPER, DATA, KEYS   as of gates.sh
# What is there already is not made again.
set -euo pipefail
longest=6 # seconds
source "$(dirname "${BASH_SOURCE[0]}")/distilling.sh"

row() { # name, decoder layers, the teacher's layers that they learn, further keys
    [ -f "$out/$1.pt" ] ||
        python "$repo/scripts/prune_layers.py" --checkpoint "$whisper" --decoder "$2" --out "$out/$1.pt"
    train "$1" "$out/$1.pt" ++criterion.layer_map="[$3]" "${without_gates[@]}" "${@:4}"
}

row merged 1+2,3+4 2,4 "${@:4}"
row dropped 1,4 1,4 "${@:4}"
