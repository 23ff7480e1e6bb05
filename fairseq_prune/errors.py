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


def _one_line(kind, error, trace) -> None:
    frames = traceback.extract_tb(trace)
    if issubclass(kind, BAD_INPUT) and frames and frames[-1].filename.startswith(PACKAGE):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
