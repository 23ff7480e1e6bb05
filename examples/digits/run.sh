#!/usr/bin/env bash
# The recipe on real spoken digits, about an hour on two cores: run.sh FSDD_DIR OUT
# What is there already is not made again. Needs the environment of scripts/setup_env.sh.
set -euo pipefail
fsdd=$1
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
mkdir -p "$2"
out="$(cd "$2" && pwd)"

train() { # name, further keys
    local name=$1
    shift
    [ -f "$out/$name/complete" ] && return
    fairseq-hydra-train --config-dir "$repo/examples/digits/config" --config-name digits \
        hydra.run.dir="$out/$name" common.user_dir="$repo/fairseq_prune" task.data="$out/data" \
        checkpoint.save_dir="$out/$name" "$@"
    touch "$out/$name/complete"
}

prune() { # name, criterion, keep ratio: trains the dense model on with pruning
    train "$1" checkpoint.finetune_from_model="$dense" model.token_keep_criterion="$2" model.token_keep_ratio="$3" \
        optimization.max_update=400 optimization.lr='[0.0005]' lr_scheduler.warmup_updates=50
}

[ -d "$out/data" ] || bash "$repo/examples/digits/prepare.sh" "$fsdd" "$out"
train dense
dense="$out/dense/checkpoint_best.pt"
# as many further updates without pruning, so that what is compared was trained equally long
prune unpruned received 1.0
prune received-0.9 received 0.9
prune received-0.8 received 0.8
prune received-0.7 received 0.7
prune random-0.7 random 0.7
prune uniform-0.7 uniform 0.7
python "$repo/scripts/sweep_pruning.py" --data "$out/data" --out "$out/report" --batch-size 16 \
    --checkpoint "$out"/{unpruned,received-0.9,received-0.8,received-0.7,random-0.7,uniform-0.7}/checkpoint_best.pt \
    --keep-ratios 0.9 0.8 0.7 --criteria received random uniform
