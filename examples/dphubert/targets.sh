#!/usr/bin/env bash
# What to distil, on real spoken digits: targets.sh FSDD_DIR OUT
# Four targets (published: the losses of DPHuBERT; star; masked: ARMHuBERT's; groups: SKILL's), each for what gates learn
# to prune and for the cut by hand that spares the extractor, with three seeds. Then a probe tells digits by each student.
# What is there already is not made again; a training that was cut off goes on where it was. STAGE1 and STAGE2 updates are
# with gates and after the cut; the cut by hand has as many as both together. SEEDS and TARGETS choose some.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/digits.sh"
stage1=${STAGE1:-1500} stage2=${STAGE2:-500}

keys() { # target: the keys that ask for it, one a line
    case $1 in
        published) ;;
        star) printf '%s\n' ++criterion.{l1_weight=0,cosine_weight=0,relation_weight=1} ;;
        masked) printf '%s\n' ++model.{mask_prob=0.6,mask_length=6} ;; # as the teacher was pretrained
        groups)
            [ -f "$out/groups.txt" ] ||
                python "$here/layer_groups.py" --teacher "$teacher" --data "$out/data" --groups 3 >"$out/groups.txt"
            printf '%s\n' ++model.distill_by=groups "++model.distill_layers='$(cat "$out/groups.txt")'"
            ;;
    esac
}

students=()
for target in ${TARGETS:-published star masked groups}; do
    gated="gates, $target=" cut="cut by hand, $target="
    for seed in ${SEEDS:-1 2 3}; do
        name=${target}_$seed
        wanted="$(keys "$target")"
        asked=(common.seed="$seed" dataset.disable_validation=true)
        while read -r key; do [ -z "$key" ] || asked+=("$key"); done <<<"$wanted"
        with_gates "stage1_$name" optimization.max_update="$stage1" lr_scheduler.total_num_update="$stage1" \
            criterion.sparsity_warmup_updates=$((stage1 / 3)) "${asked[@]}"
        compress "stage1_$name" "$out/pruned_$name.pt"
        without_gates "gates_$name" "$out/pruned_$name.pt" "$stage2" optimization.lr='[0.0005]' \
            model.maps_path="$out/stage1_$name/checkpoint_last.pt" "${asked[@]}"
        # all cuts by hand have the size of the same model
        cut_untrained uniform-layers "$out/pruned_published_1.pt" "$out/cut_by_hand.pt"
        without_gates "hand_$name" "$out/cut_by_hand.pt" $((stage1 + stage2)) "${asked[@]}"
        gated+="$out/gates_$name/checkpoint_last.pt," cut+="$out/hand_$name/checkpoint_last.pt,"
    done
    students+=("${gated%,}" "${cut%,}")
done
python "$here/probe.py" --fsdd "$1" --held-out 5-14 --against "cut by hand, published" --out "$out/probe" \
    --models "teacher=$teacher" "cut by hand, untrained=$out/cut_by_hand.pt" "${students[@]}"
