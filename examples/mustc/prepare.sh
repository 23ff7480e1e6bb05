#!/usr/bin/env bash
# MuST-C with DeltaLM's own vocabulary: prepare.sh MUSTC_ROOT DELTALM_DIR OUT [LANG]
# DELTALM_DIR holds deltalm-base.pt, spm.model and dict.txt as published.
set -euo pipefail
root=$1 deltalm=$2 out=$3 lang=${4:-de}
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
python "$repo/data_prep/prep_mustc.py" --data-root "$root" --tgt-lang "$lang" --out "$out" \
    --spm-model "$deltalm/spm.model" --dict "$deltalm/dict.txt" --workers "$(nproc)"
