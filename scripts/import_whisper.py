#!/usr/bin/env python
"""Turn a Whisper of Hugging Face, OpenAI or CTranslate2 into a checkpoint of this package.

    python scripts/import_whisper.py --from whisper-tiny.en --out whisper.pt                  (Hugging Face's folder)
    python scripts/import_whisper.py --from faster-whisper-tiny.en --out whisper.pt           (CTranslate2's folder)
    python scripts/import_whisper.py --from tiny.en.pt --tokenizer gpt2.tiktoken --out whisper.pt          (OpenAI)

The checkpoint holds weights, sizes and tokenizer: fairseq-generate runs it, --whisper-path trains from it,
prune_vocab.py, prune_layers.py and export.py take it.
"""

from pathlib import Path

import torch
from _cli import PlainParser, complete, run
from fairseq import checkpoint_utils

from fairseq_prune.checkpoints.loading import load_fairseq_state
from fairseq_prune.checkpoints.whisper.importing import import_whisper
from fairseq_prune.modules.whisper.generation import suppressed_tokens
from fairseq_prune.text.byte_level_bpe import ByteLevelBPE
from fairseq_prune.text.openai import read_ranks

MULTILINGUAL_END = (
    50257  # id of the end of text in the multilingual tokenizers; in the English one it is 50256
)


def read_tokenizer(args, rows):
    """The tokenizer of --tokenizer, or of the folder that --from names."""
    path = args.tokenizer or args.source
    if not path.is_dir() and args.tokenizer is None:
        raise ValueError(
            f"{path}: holds no tokenizer, give --tokenizer: tokenizer.json, or OpenAI's gpt2.tiktoken"
        )
    if path.suffix == ".tiktoken":
        return read_ranks(path, rows)
    return ByteLevelBPE.load(path).for_rows(rows)


def main(args):
    checkpoint, says = import_whisper(args.source)
    tokenizer = read_tokenizer(args, checkpoint.rows)
    checkpoint.require_symbols(tokenizer.dictionary.symbols, tokenizer.name)
    checkpoint.tokenizer = tokenizer.to_json()
    multilingual = says["multilingual"]
    if multilingual is None:
        multilingual = tokenizer.dictionary.eos() >= MULTILINGUAL_END
    language = args.language if multilingual else None
    tokenizer.prefix(language)  # raises where there is no such language
    never, _ = suppressed_tokens(tokenizer)
    listed = says["suppressed"]
    suppress = "none" if listed == [] else "non_speech"
    if listed and set(listed) != set(never):
        print(
            f"note: {args.source} suppresses {len(listed)} tokens, this package {len(never)} (signs of no speech)"
        )
    checkpoint.task = {"language": language, "suppress_tokens": suppress}
    with complete(args.out, args.overwrite) as written:
        torch.save(checkpoint.to_fairseq(), written)
        state = load_fairseq_state(written)  # strictly, as fairseq's programs do
        [model], _, _ = checkpoint_utils.load_model_ensemble_and_task([str(written)], state=state)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    kind = f"multilingual, set to {language}" if multilingual else "English"
    print(f"{args.out}: {parameters:,} parameters, {checkpoint.rows:,} tokens, {kind}")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--from", dest="source", type=Path, required=True, help="folder, or OpenAI's .pt")
    add(
        "--tokenizer",
        type=Path,
        help="tokenizer.json or OpenAI's .tiktoken (default: tokenizer.json of the folder)",
    )
    add("--language", default="en", help="that a multilingual model shall write (default: en)")
    add("--out", type=Path, required=True, help="checkpoint to write")
    add("--overwrite", action="store_true", help="replace what is there")
    run(main, parser)
