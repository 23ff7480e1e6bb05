#!/usr/bin/env bash
# The Free Spoken Digit Dataset as a speech translation corpus: prepare.sh FSDD_DIR OUT
# FSDD_DIR holds {digit}_{speaker}_{index}.wav. Recordings 5-9 are the test set, 10-14 the dev set. Training
# utterances are single pairs of digits, which the task joins afresh in every epoch.
set -euo pipefail
fsdd=$1 out=$2
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
python "$repo/data_prep/prep_digits.py" --fsdd "$fsdd" --out "$out/corpus" \
    --test-indices 5-9 --dev-indices 10-14 --train-pairs 1 1 --train-utterances 6000 \
    --dev-utterances 200 --test-utterances 500 --edge-pause 0 0 --trim-db 40 --normalize rms
python "$repo/data_prep/prep_mustc.py" --data-root "$out/corpus" --tgt-lang de --out "$out/data" \
    --vocab-type bpe --vocab-size 90 --src-vocab-size 56 --ctc-vocab-type bpe --ctc-vocab-size 56
