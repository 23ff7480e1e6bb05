"""What the command lines of this folder share."""

import argparse
import ast
import logging
import math
import os
import signal
import sys
import warnings


def _end_at_once(*_) -> None:
    """After Ctrl-C while the rest is imported: nothing has begun, and libraries may go on in half an import."""
    os.write(2, b"interrupted\n")
    os._exit(128 + signal.SIGINT)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background ignores it
    signal.signal(signal.SIGINT, _end_at_once)  # until `run`

# fairseq logs and warns while it is imported, which these scripts do after this module
logging.disable(logging.INFO)
warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=UserWarning, module="torch")

from fairseq_prune.checkpoints.runtime.engines import ENGINES, ONNX_RUNTIME  # noqa: E402
from fairseq_prune.command_line import INTERRUPTED, PlainParser, finish  # noqa: E402
from fairseq_prune.files import complete  # noqa: E402, F401
from fairseq_prune.inference.translation import Translator  # noqa: E402


class Parser(PlainParser):
    """With the options of every script that translates.

    Args:
        checkpoints: "+" takes several.
        required: whether there is nothing else than a checkpoint to translate with.
    """

    def __init__(self, description: str, checkpoints=None, required: bool = True):
        super().__init__(description)
        add = self.add_argument
        add(
            "--checkpoint",
            required=required,
            nargs=checkpoints,
            help="checkpoint of the task speech_translation",
        )
        add("--beam", type=positive(int), default=5, help="beam size (default: 5)")
        add("--batch-size", type=positive(int), default=8, help="utterances at a time (default: 8)")
        add("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
        add("--fp16", action="store_true", help="float16, for GPUs")
        add(
            "--model-overrides",
            type=overrides,
            default={},
            help="options of the checkpoint to change, as in fairseq-generate: \"{'token_keep_ratio': 0.7}\"",
        )


def positive(kind: type):
    """For argparse: a finite number above 0 of the type ``kind``."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a positive {kind.__name__}")
        return value

    return convert


def overrides(text: str) -> dict:
    """For argparse: a Python dict of options."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, TypeError, ValueError):
        value = None
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        example = "{'token_keep_ratio': 0.7}"
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a dict of options like {example}")
    return value


def add_engine_options(parser) -> None:
    """What runs an export. No defaults, so that it shows which are given."""
    add = parser.add_argument
    add("--engine", choices=ENGINES, help=f"what runs --onnx (default: {ONNX_RUNTIME})")
    add("--threads", type=positive(int), help="of the engine that runs --onnx (default: as it chooses)")


def engine_options(args: argparse.Namespace) -> dict:
    """What `add_engine_options` says, for the classes of `checkpoints.runtime`.

    Raises:
        ValueError: it says something, and there is no export.
    """
    for name in ("engine", "threads"):
        if not args.onnx and getattr(args, name) is not None:
            raise ValueError(f"--{name}: found with --checkpoint, expected with --onnx")
    return {"engine": args.engine or ONNX_RUNTIME, "threads": args.threads or 0}


def load_translator(args: argparse.Namespace, checkpoint=None, int8: bool = False) -> Translator:
    """The translator that the options of `Parser` ask for."""
    options = {"device": args.device, "half": args.fp16, "int8": int8}
    return Translator(checkpoint or args.checkpoint, args.model_overrides, args.beam, **options)


def run(main, parser: PlainParser) -> None:
    """Call ``main(args)``. Bad input becomes one line on stderr and exit status 2; Ctrl-C one line and 130."""
    args = parser.parse_args()
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on there is something to tidy
    status = finish(main, args)
    if status == INTERRUPTED:  # all is tidied, and threads that are still at work are not waited for
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if status:
        sys.exit(status)
