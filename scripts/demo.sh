#!/usr/bin/env bash
# The main job on an embedded default, in about ten minutes on two cores after installation: speaks a corpus, prepares
# it, trains a translation model, prunes it, translates, and draws table and picture. All of it lies in demo_out/;
# what is complete there is used again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/env.sh
out=demo_out
mkdir -p "$out/report"
started=$SECONDS
step() { echo "[demo $((SECONDS - started)) s] $*"; }

# fairseq's log, without the configuration that it prints
quiet() { grep --line-buffered -E "train_inner|valid on|Loaded checkpoint|rror" | sed -u -E 's/^[^|]*\| INFO \| //' || true; }

train() { # name, updates, further options
    local name=$1 updates=$2
    shift 2
    if [ -f "$out/$name/complete" ]; then
        step "$name model: already there"
        return
    fi
    step "training the $name model, $updates updates (log: $out/$name/train.log)"
    mkdir -p "$out/$name"
    fairseq-train "$out/data" --user-dir fairseq_prune --task speech_translation --arch hubert_deltalm_tiny \
        --criterion speech_translation --label-smoothing 0.1 --ctc-text source --ctc-weight 1.0 \
        --speed-factors 0.9,1.0,1.1 --edge-max-silence 640 --cache-audio --max-tokens 640000 --max-update "$updates" \
        --optimizer adam --adam-betas '(0.9,0.98)' --clip-norm 5 --lr-scheduler inverse_sqrt \
        --train-subset train --valid-subset dev --eval-bleu --eval-bleu-args '{"beam": 1, "max_len_b": 40}' \
        --best-checkpoint-metric chrf --maximize-best-checkpoint-metric --no-epoch-checkpoints \
        --save-dir "$out/$name" --seed 1 --num-workers 0 --no-progress-bar --log-format simple --log-interval 25 "$@" \
        2>&1 | tee "$out/$name/train.log" | quiet
    test -f "$out/$name/checkpoint_last.pt"
    touch "$out/$name/complete"
}

generate() { # name
    local result="$out/report/$1.txt"
    [ -f "$result" ] || {
        fairseq-generate "$out/data" --user-dir fairseq_prune --task speech_translation --gen-subset tst-COMMON \
            --path "$out/$1/checkpoint_best.pt" --scoring sacrebleu --beam 5 --max-len-b 40 \
            --max-tokens 1600000 > "$result.unfinished" 2> "$out/report/$1.log"
        mv "$result.unfinished" "$result"
    }
    step "fairseq-generate, $1 model: $(tail -n 1 "$result")"
}

if [ ! -d "$out/corpus" ]; then
    step "speaking a corpus: English sentences and their German translations"
    rm -rf "$out/data"
    python data_prep/make_demo_corpus.py --out "$out/corpus"
fi
if [ ! -d "$out/data" ]; then
    step "preparing it"
    python data_prep/prep_mustc.py --data-root "$out/corpus" --tgt-lang de --out "$out/data" \
        --vocab-size 100 --src-vocab-size 70 --ctc-vocab-type unigram --ctc-vocab-size 70
fi

train dense 800 --lr 1e-3 --warmup-updates 250
train pruned 150 --lr 5e-4 --warmup-updates 20 --finetune-from-model "$out/dense/checkpoint_best.pt" \
    --token-keep-ratio 0.8
generate dense
generate pruned

step "the table"
[ -f "$out/report/sweep.md" ] || python scripts/sweep_pruning.py --data "$out/data" --out "$out/report" \
    --checkpoint "$out/dense/checkpoint_best.pt" "$out/pruned/checkpoint_best.pt" \
    --keep-ratios 0.9 0.8 0.7 --criteria received random uniform --repeats 3
cat "$out/report/sweep.md"

step "the picture"
# the first row of the test manifest: audio, offset and length in samples
IFS=$'\t' read -r audio offset samples < <(awk -F'\t' 'NR == 2 {print $2 "\t" $3 "\t" $4}' "$out/data/tst-COMMON.tsv")
root="$(sed -n 's/^audio_root: //p' "$out/data/config.yaml")"
python scripts/show_pruning.py --checkpoint "$out/pruned/checkpoint_best.pt" "$root/$audio" \
    --start "$(awk "BEGIN {print $offset / 16000}")" --seconds "$(awk "BEGIN {print $samples / 16000}")" \
    --out "$out/report/kept.png"
step "done; see $out/report/"
