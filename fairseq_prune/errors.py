"""Bad input under fairseq's command lines ends in one line instead of a traceback."""

import os
import sys
import traceback
from pathlib import Path

PACKAGE = str(Path(__file__).parent) + os.sep
BAD_INPUT = (ValueError, FileNotFoundError)
SHOW = "FAIRSEQ_PRUNE_TRACEBACK"


def install() -> None:
    """Where a fairseq command is running, print ``error: ...`` for what this package refuses.

    Set the environment variable FAIRSEQ_PRUNE_TRACEBACK=1 to see where it was raised.
    """
    if Path(sys.argv[0]).name.startswith("fairseq-") and not os.environ.get(SHOW):
        sys.excepthook = _one_line
        os.environ["HYDRA_FULL_ERROR"] = "1"  # or else hydra prints a traceback of its own, and exits


def _one_line(kind, error, trace) -> None:
    refusal = next(filter(_is_ours, _chain(error)), None)
    if refusal is not None:
        print(f"error: {refusal}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _chain(error):
    """An exception and those that it was raised from: fairseq's trainer wraps what fails in loading."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_ours(error) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, BAD_INPUT) and bool(frames) and frames[-1].filename.startswith(PACKAGE)
