#!/usr/bin/env python
"""Turn a Whisper of Hugging Face, OpenAI or CTranslate2 into a checkpoint of this package.

    python scripts/import_whisper.py --from whisper-tiny.en --out whisper.pt                  (Hugging Face's folder)
    python scripts/import_whisper.py --from faster-whisper-tiny.en --out whisper.pt           (CTranslate2's folder)
    python scripts/import_whisper.py --from tiny.en.pt --tokenizer gpt2.tiktoken --out whisper.pt          (OpenAI)

The checkpoint holds weights, sizes and tokenizer: fairseq-generate runs it, --whisper-path trains from it,
prune_vocab.py, prune_layers.py and export.py take it.
"""

from pathlib import Path

from _cli import PlainParser, complete, run

from fairseq import checkpoint_utils

from fairseq_prune.checkpoints.loading import load_fairseq_state
from fairseq_prune.checkpoints.saving import save
from fairseq_prune.checkpoints.whisper.foreign import import_whole
from fairseq_prune.modules.whisper.generation import suppressed_tokens


def main(args):
    checkpoint, tokenizer, says = import_whole(args.source, args.tokenizer, args.language, args.spoken_task)
    never, _ = suppressed_tokens(tokenizer)
    listed = says["suppressed"]
    if listed and set(listed) != set(never):
        print(
            f"note: {args.source} suppresses {len(listed)} tokens, this package {len(never)} (signs of no speech)"
        )
    with complete(args.out, args.overwrite) as written:
        save(checkpoint.to_fairseq(), written)
        state = load_fairseq_state(written)  # strictly, as fairseq's programs do
        [model], _, _ = checkpoint_utils.load_model_ensemble_and_task([str(written)], state=state)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = f"multilingual, set to {checkpoint.task['language']}" if says["multilingual"] else "English"
    print(f"{args.out}: {parameters:,} parameters, {checkpoint.rows:,} tokens, {kind}")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--from", dest="source", type=Path, required=True, help="folder, or OpenAI's .pt")
    add(
        "--tokenizer",
        type=Path,
        help="tokenizer.json, a folder, or OpenAI's .tiktoken (default: that of the folder --from)",
    )
    add("--language", help="of the speech, for a multilingual model: a code such as de (default: en)")
    add(
        "--spoken-task",
        choices=("transcribe", "translate"),
        default="transcribe",
        help="what a multilingual model writes: that language, or English (default: transcribe)",
    )
    add("--out", type=Path, required=True, help="checkpoint to write")
    add("--overwrite", action="store_true", help="replace what is there")
    run(main, parser)
