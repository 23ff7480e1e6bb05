# What gates.sh and layers.sh share. They set longest, in seconds, and source it with WHISPER DATA OUT.
# Sets here, repo, whisper, data and out; writes manifests of the clips that are not longer into OUT/short.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo="$(cd "$here/../.." && pwd)"
whisper="$(realpath "$1")"
data="$(realpath "$2")"
mkdir -p "$3/short"
out="$(realpath "$3")"
export PYTHONPATH="$repo"

for split in train choose; do
    awk -F'\t' -v most=$((longest * 16000)) \
        'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "n_frames") samples = i } NR == 1 || $samples <= most' \
        "$data/$split.tsv" >"$out/short/$split.tsv"
done

without_gates=(model._name=whisper_tiny_en '~model.prune' optimizer._name=adam '~optimizer.gate_lr')

train() { # name, what to start from, further keys; a training that is complete is not made again
    [ -f "$out/$1/complete" ] && return
    fairseq-hydra-train --config-dir "$here/config" --config-name gates_tiny_en hydra.run.dir="$out/$1" \
        common.user_dir="$repo/fairseq_prune" task.data="$out/short" checkpoint.save_dir="$out/$1" \
        model.whisper_path="$2" criterion.teacher_path="$whisper" "${@:3}"
    touch "$out/$1/complete"
}
