#!/usr/bin/env bash
# Train on MuST-C: train.sh DATA HUBERT DELTALM OUT [options of fairseq-train]
# GPUS=8 (default: all that there are). With fewer GPUs raise --update-freq to keep 16 batches an update.
set -euo pipefail
data=$1 hubert=$2 deltalm=$3 out=$4
shift 4
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
gpus=${GPUS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
torchrun --standalone --nproc_per_node "$gpus" "$(command -v fairseq-train)" "$data" \
    --user-dir "$repo/fairseq_prune" --task speech_translation --arch hubert_deltalm_base \
    --hubert-path "$hubert" --deltalm-path "$deltalm" --save-dir "$out" \
    --mask-prob 0.3 --mask-channel-prob 0.2 --hubert-layerdrop 0.05 \
    --token-keep-ratio 0.9 --token-keep-start-layer 4 --token-keep-warmup-updates 10000 \
    --criterion speech_translation --label-smoothing 0.1 --report-accuracy \
    --optimizer adam --adam-betas '(0.9,0.98)' --lr 1e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 \
    --clip-norm 10 --fp16 --max-tokens 1600000 --update-freq "$((16 / gpus > 0 ? 16 / gpus : 1))" \
    --max-update 60000 --train-subset train --valid-subset dev --num-workers 4 \
    --eval-bleu --eval-bleu-args '{"beam": 5, "max_len_b": 200}' \
    --best-checkpoint-metric bleu --maximize-best-checkpoint-metric --keep-best-checkpoints 5 \
    --no-epoch-checkpoints --ddp-backend legacy_ddp --seed 1 --log-format simple --log-interval 100 "$@"
