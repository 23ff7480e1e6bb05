#!/usr/bin/env bash
# Learn what of whisper-tiny.en to prune, and compare it with a cut by weight norms: gates.sh WHISPER DATA OUT [KEYS...]
#   WHISPER   checkpoint of whisper-tiny.en (scripts/import_whisper.py)
#   DATA      folder of manifests train.tsv and choose.tsv (split.py and prep_speech.py); their texts are not used
#   KEYS      of the configuration: criterion.target_sparsity=0.5, criterion.sparsity_of=macs, ...
# What is there already is not made again; a training that was cut off goes on where it was. GATED and TRAINED updates
# are with gates and after the cut; the cut by norms gets as many as both together.
set -euo pipefail
gated=${GATED:-200} trained=${TRAINED:-100}
longest=10 # seconds
source "$(dirname "${BASH_SOURCE[0]}")/distilling.sh"

train gated "$whisper" optimization.max_update="$gated" "${@:4}"
[ -f "$out/cut.pt" ] ||
    python "$repo/scripts/compress_whisper.py" --checkpoint "$out/gated/checkpoint_last.pt" --out "$out/cut.pt"
train learned "$out/cut.pt" optimization.max_update="$trained" "${without_gates[@]}" "${@:4}"

[ -f "$out/norm.pt" ] ||
    python "$here/cut_by_norm.py" --checkpoint "$whisper" --size-of "$out/cut.pt" --out "$out/norm.pt"
train norm "$out/norm.pt" optimization.max_update="$((gated + trained))" "${without_gates[@]}" "${@:4}"
