#!/usr/bin/env python
"""Write the model of a checkpoint in the format of another library.

The file is loaded there and gives the outputs that the model gives here, or the command says what differs and
leaves nothing. A model card says what it is: README.md in a folder, FILE.md beside a file.

    python scripts/export.py --checkpoint pruned.pt --format onnx --out pruned.onnx --int8
    python scripts/export.py --checkpoint whisper.pt --format hf --out whisper_hf
    python scripts/export.py --checkpoint recogniser.pt --format onnx --out recogniser_onnx
"""

import os
from pathlib import Path

from _cli import PlainParser, complete, overrides, run

from fairseq import checkpoint_utils

from fairseq_prune.checkpoints.formats import formats_of
from fairseq_prune.checkpoints.loading import load_fairseq_state
from fairseq_prune.checkpoints.model_card import card_path, read_results, write_card
from fairseq_prune.inference.recognition import MODELS, Recognizer


def main(args):
    results = read_results(args.results)
    with complete(args.out, args.overwrite) as written:
        state = load_fairseq_state(args.checkpoint, args.model_overrides)
        try:
            formats = formats_of(state["cfg"].model._name)
        except ValueError as error:
            raise ValueError(f"{args.checkpoint}: {error}") from None
        if args.format not in formats:
            raise ValueError(
                f"--format: found {args.format!r}, expected one of {', '.join(formats)} for {args.checkpoint},"
                f" a model {state['cfg'].model._name!r}"
            )
        if args.int8 and not formats[args.format].int8:
            able = " or ".join(name for name, row in formats.items() if row.int8)
            raise ValueError(f"--int8: found with --format {args.format}, expected {able}")
        if state["cfg"].model._name in MODELS:  # published ones hold no dictionary
            recognizer = Recognizer(args.checkpoint, args.dict, args.model_overrides)
            model, task = recognizer.model, recognizer.task
        else:
            [model], _, task = checkpoint_utils.load_model_ensemble_and_task([args.checkpoint], state=state)
        formats[args.format].write(model.eval(), task, written, args)
        source = Path(args.checkpoint)
        card = write_card(written, model, state["cfg"], source, args.format, args.int8, results, args.results)
        if written.is_file():  # where it will be beside it
            os.replace(card, card_path(args.out))
    print(f"{args.out}: {args.format}, loaded back with equal outputs")


if __name__ == "__main__":
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--checkpoint", required=True, help="checkpoint of this package")
    add(
        "--format",
        required=True,
        help="of encoders dphubert, torchaudio, hf, onnx; of recognisers hf, onnx; of translators onnx, and hf of their"
        " encoder; of Whisper hf, ctranslate2, onnx",
    )
    add("--out", type=Path, required=True, help="file to write, or folder where the format has several files")
    add(
        "--int8",
        action="store_true",
        help="weights in 8 bits, for the formats that know it (onnx, ctranslate2)",
    )
    add(
        "--model-overrides",
        type=overrides,
        default={},
        help="options of the checkpoint to change: \"{'token_keep_ratio': 1.0}\"",
    )
    add("--dict", type=Path, help="fairseq dictionary of a recogniser whose checkpoint holds none")
    add(
        "--results",
        type=Path,
        help="JSON of measured figures for the model card, as report.json of transcribe.py",
    )
    add("--overwrite", action="store_true", help="replace what is there")
    run(main, parser)
