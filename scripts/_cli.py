"""What the command lines of this folder share."""

import argparse
import ast
import logging
import sys
import warnings

# fairseq logs and warns while it is imported, which these scripts do after this module
logging.disable(logging.INFO)
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=UserWarning, module="torch")


def add_model_options(parser: argparse.ArgumentParser, checkpoints=None) -> None:
    """Options of every script that translates; ``checkpoints="+"`` takes several."""
    parser.add_argument(
        "--checkpoint", required=True, nargs=checkpoints, help="checkpoint of the task speech_translation"
    )
    parser.add_argument("--beam", type=int, default=5, help="beam size (default: 5)")
    parser.add_argument("--batch-size", type=int, default=8, help="utterances at a time (default: 8)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--fp16", action="store_true", help="float16, for GPUs")
    parser.add_argument(
        "--model-overrides",
        type=ast.literal_eval,
        default={},
        help="options of the checkpoint to change, as in fairseq-generate: \"{'token_keep_ratio': 0.7}\"",
    )


def load_translator(args: argparse.Namespace, checkpoint=None):
    """The translator that the options of `add_model_options` ask for."""
    from fairseq_prune.inference import Translator

    return Translator(
        checkpoint or args.checkpoint,
        args.model_overrides,
        beam=args.beam,
        device=args.device,
        half=args.fp16,
    )


def run(main, parser: argparse.ArgumentParser) -> None:
    """Call ``main(args)``; a bad input becomes one line on stderr and exit status 2."""
    args = parser.parse_args()
    try:
        main(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(_fail(error))


def _fail(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2
