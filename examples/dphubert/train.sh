#!/usr/bin/env bash
# Both stages for a published encoder: train.sh DATA TEACHER OUT [GPUS, 4 or a divisor of it] [further keys...]
# DATA has train960.tsv and valid.tsv (data_prep/prep_audio.py). An update sees 4 batches of 160 s on however many
# GPUs there are. What is there already is not made again; a stage that was cut off goes on where it was.
set -euo pipefail
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
data="$(cd "$1" && pwd)" teacher="$(realpath "$2")" gpus=${4:-4}
mkdir -p "$3"
out="$(cd "$3" && pwd)"
export PYTHONPATH="$repo"

stage() { # configuration, name, further keys
    local config=$1 name=$2
    shift 2
    [ -f "$out/$name/complete" ] && return
    fairseq-hydra-train --config-dir "$repo/examples/dphubert/config" --config-name "$config" \
        hydra.run.dir="$out/$name" common.user_dir="$repo/fairseq_prune" task.data="$data" \
        checkpoint.save_dir="$out/$name" model.teacher_path="$teacher" \
        distributed_training.distributed_world_size="$gpus" optimization.update_freq="[$((4 / gpus))]" "$@"
    touch "$out/$name/complete"
}

stage dphubert_base stage1 "${@:5}"
[ -f "$out/pruned.pt" ] ||
    python "$repo/scripts/compress_hubert.py" --checkpoint "$out/stage1/checkpoint_last.pt" --out "$out/pruned.pt"
stage dphubert_base_final stage2 model.student_path="$out/pruned.pt" \
    model.maps_path="$out/stage1/checkpoint_last.pt" "${@:5}"
python "$repo/scripts/compress_hubert.py" --checkpoint "$out/stage2/checkpoint_last.pt" --out "$out/dphubert.pt"
