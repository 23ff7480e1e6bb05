#!/usr/bin/env bash
# Teach whisper-tiny.en to hear short contexts: acft.sh WHISPER DATA OUT [KEYS...]
#   WHISPER   a folder of whisper-tiny.en (Hugging Face or CTranslate2)
#   DATA      a folder of manifests train.tsv and dev.tsv; their texts are not used
#   KEYS      of the configuration: optimization.max_update=1000, model.token_keep_ratio=0.7, ...
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo="$(cd "$here/../.." && pwd)"
mkdir -p "$3"
out="$(cd "$3" && pwd)"
data="$(cd "$2" && pwd)"
[ -f "$out/whisper.pt" ] || python "$repo/scripts/import_whisper.py" --from "$1" --out "$out/whisper.pt"
fairseq-hydra-train --config-dir "$here/config" --config-name acft_tiny_en hydra.run.dir="$out" \
    common.user_dir="$repo/fairseq_prune" task.data="$data" checkpoint.save_dir="$out/checkpoints" \
    model.whisper_path="$out/whisper.pt" "${@:4}"
