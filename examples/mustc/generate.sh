#!/usr/bin/env bash
# Translate and score: generate.sh DATA CHECKPOINT [options of fairseq-generate]
set -euo pipefail
data=$1 checkpoint=$2
shift 2
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
fairseq-generate "$data" --user-dir "$repo/fairseq_prune" --task speech_translation --path "$checkpoint" \
    --gen-subset tst-COMMON --scoring sacrebleu --beam 5 --max-len-b 200 --max-tokens 1600000 "$@"
