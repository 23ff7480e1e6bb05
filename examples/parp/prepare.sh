#!/usr/bin/env bash
# The Free Spoken Digit Dataset as a recognition corpus: prepare.sh FSDD_DIR OUT
# FSDD_DIR holds {digit}_{speaker}_{index}.wav. Recordings 5-9 are the test set, 10-14 the dev set.
set -euo pipefail
fsdd=$1 out=$2
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
python "$repo/data_prep/prep_digits.py" --task asr --fsdd "$fsdd" --out "$out/data" \
    --test-indices 5-9 --dev-indices 10-14 --train-utterances 3000 --dev-utterances 150 --test-utterances 500 \
    --pause 0.05 0.15 --trim-db 40 --normalize rms
