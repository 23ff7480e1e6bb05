#!/usr/bin/env bash
# DPHuBERT on real spoken digits, about half an hour on one core: run.sh FSDD_DIR OUT
# What is there already is not made again. Needs the environment of scripts/setup_env.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/digits.sh"

# stage 1 learns what to prune, stage 2 trains what is left
with_gates stage1
compress stage1 "$out/pruned.pt"
without_gates dphubert "$out/pruned.pt" 500 model.maps_path="$out/stage1/checkpoint_last.pt" optimization.lr='[0.0005]'

# of the same size, cut without learning, and distilled for as many updates as both stages together
for how in random uniform uniform-layers; do
    cut_untrained $how "$out/pruned.pt" "$out/cut_$how.pt"
    without_gates $how "$out/cut_$how.pt" 2000
done
python "$here/table.py" --teacher "$teacher" --data "$out/data" --out "$out/report" \
    --models dphubert="$out/dphubert/checkpoint_last.pt" "cut at random=$out/random/checkpoint_last.pt" \
    "uniform=$out/uniform/checkpoint_last.pt" \
    "uniform, extractor whole=$out/uniform-layers/checkpoint_last.pt" --stage1 "$out/stage1/checkpoint_last.pt"
