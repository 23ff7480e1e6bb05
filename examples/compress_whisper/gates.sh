#!/usr/bin/env bash
# Learn what of whisper-tiny.en to prune, and compare it with a cut by weight norms: gates.sh WHISPER DATA OUT [KEYS...]
#   WHISPER   checkpoint of whisper-tiny.en (scripts/import_whisper.py)
#   DATA      folder of manifests train.tsv and choose.tsv (split.py and prep_speech.py); their texts are not used
#   KEYS      of the configuration: criterion.target_sparsity=0.5, criterion.sparsity_of=macs, ...
# What is there already is not made again; a training that was cut off goes on where it was. GATED and TRAINED updates
# are with gates and after the cut; the cut by norms gets as many as both together.
set -euo pipefail
gated=${GATED:-200} trained=${TRAINED:-100}
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo="$(cd "$here/../.." && pwd)"
whisper="$(realpath "$1")"
data="$(realpath "$2")"
mkdir -p "$3/short"
out="$(realpath "$3")"
export PYTHONPATH="$repo"

for split in train choose; do # clips of at most 10 s
    awk -F'\t' 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "n_frames") samples = i } NR == 1 || $samples <= 160000' \
        "$data/$split.tsv" >"$out/short/$split.tsv"
done

train() { # name, what to start from, updates, further keys
    [ -f "$out/$1/complete" ] && return
    fairseq-hydra-train --config-dir "$here/config" --config-name gates_tiny_en hydra.run.dir="$out/$1" \
        common.user_dir="$repo/fairseq_prune" task.data="$out/short" checkpoint.save_dir="$out/$1" \
        model.whisper_path="$2" criterion.teacher_path="$whisper" optimization.max_update="$3" "${@:4}"
    touch "$out/$1/complete"
}

without_gates=(model._name=whisper_tiny_en '~model.prune' optimizer._name=adam '~optimizer.gate_lr')

train gated "$whisper" "$gated" "${@:4}"
[ -f "$out/cut.pt" ] ||
    python "$repo/scripts/compress_whisper.py" --checkpoint "$out/gated/checkpoint_last.pt" --out "$out/cut.pt"
train learned "$out/cut.pt" "$trained" "${without_gates[@]}" "${@:4}"

[ -f "$out/norm.pt" ] ||
    python "$here/cut_by_norm.py" --checkpoint "$whisper" --size-of "$out/cut.pt" --out "$out/norm.pt"
train norm "$out/norm.pt" "$((gated + trained))" "${without_gates[@]}" "${@:4}"
