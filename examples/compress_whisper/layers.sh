#!/usr/bin/env bash
# Make a decoder of two layers of whisper-tiny.en's four, by dropping and by merging, and train both: layers.sh WHISPER DATA OUT [KEYS...]
#   WHISPER, DATA, KEYS   as of gates.sh
# What is there already is not made again.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo="$(cd "$here/../.." && pwd)"
whisper="$(realpath "$1")"
data="$(realpath "$2")"
mkdir -p "$3/short"
out="$(realpath "$3")"
export PYTHONPATH="$repo"

for split in train choose; do # clips of at most 6 s
    awk -F'\t' 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "n_frames") samples = i } NR == 1 || $samples <= 96000' \
        "$data/$split.tsv" >"$out/short/$split.tsv"
done

row() { # name, decoder layers, the teacher's layers that they learn, further keys
    [ -f "$out/$1.pt" ] ||
        python "$repo/scripts/prune_layers.py" --checkpoint "$whisper" --decoder "$2" --out "$out/$1.pt"
    [ -f "$out/$1/complete" ] && return
    fairseq-hydra-train --config-dir "$here/config" --config-name gates_tiny_en hydra.run.dir="$out/$1" \
        common.user_dir="$repo/fairseq_prune" task.data="$out/short" checkpoint.save_dir="$out/$1" \
        model.whisper_path="$out/$1.pt" criterion.teacher_path="$whisper" ++criterion.layer_map="[$3]" \
        model._name=whisper_tiny_en '~model.prune' optimizer._name=adam '~optimizer.gate_lr' "${@:4}"
    touch "$out/$1/complete"
}

row merged 1+2,3+4 2,4 "${@:4}"
row dropped 1,4 1,4 "${@:4}"
