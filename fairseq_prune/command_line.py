"""What all commands have in common: their help, their errors in one line, and their exit status."""

import argparse
import importlib
import logging
import os
import sys
from typing import Callable

from fairseq_prune.errors import AT_THE_EDGE, SHOW, line
from fairseq_prune.files import UNFINISHED

INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


class PlainParser(argparse.ArgumentParser):
    """Shows the description as it is written, and says in one line what is wrong with the options."""

    def __init__(self, description: str = "", **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(description=description, allow_abbrev=False, **options)

    def error(self, message):
        """End with one line, as for all bad input."""
        self.exit(2, f"error: {message}\n")


def finish(action: Callable, args: argparse.Namespace) -> int:
    """Call ``action(args)`` and return the exit status.

    Bad input becomes one line on stderr, and so does Ctrl-C. The environment variable FAIRSEQ_PRUNE_TRACEBACK=1
    shows where the error was raised.
    """
    logging.disable(logging.INFO)  # importing fairseq lets all libraries log
    try:
        action(args)
    except KeyboardInterrupt:
        return interrupted()
    except (*AT_THE_EDGE, ImportError) as error:  # ImportError: an extra that is not installed
        if os.environ.get(SHOW):
            raise
        said = UNFINISHED.sub("", _edge(error, getattr(args, "out", None)))
    else:
        return 0
    print(said, file=sys.stderr)  # the last line: with the error's frames, progress bars have ended
    return 2


def interrupted() -> int:
    """Say so in one line; the exit status of a command that was interrupted."""
    print("interrupted", file=sys.stderr)
    return INTERRUPTED


def enter(module: str) -> None:
    """Run ``main()`` of a module as the command of this process. Ctrl-C may also come while it is imported."""
    logging.disable(logging.INFO)  # fairseq logs while it is imported
    try:
        status = importlib.import_module(module).main()
    except KeyboardInterrupt:
        status = interrupted()
    if status == INTERRUPTED:
        sys.stdout.flush()
        os._exit(status)  # all is tidied; do not wait for threads and processes that are still at work
    sys.exit(status)


def _edge(error: BaseException, out) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = error.filename or out  # a failed write does not know its file
        return f"error: {place}: {error.strerror}" if place else f"error: {error.strerror}"
    return f"error: {error}" if isinstance(error, ImportError) else line(error)
