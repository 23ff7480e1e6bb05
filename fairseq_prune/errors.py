"""Bad input ends in one line instead of a traceback, under fairseq's command lines and under ours."""

import multiprocessing
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Optional

# whose refusals are lines for users: this package's, and those that fairseq writes of files and options
OURS = str(Path(__file__).parent) + os.sep
FAIRSEQ = re.compile(
    r".*[/\\](fairseq[/\\](checkpoint_utils|data[/\\]data_utils|tasks[/\\]\w+)|fairseq_cli[/\\]\w+)\.py"
)
REGISTRIES = re.compile(r".*[/\\]fairseq[/\\](registry|(models|tasks)[/\\]__init__)\.py")
WORKER = re.compile(r"Caught (ValueError|FileNotFoundError|\w*OSError) in DataLoader worker process")
BAD_INPUT = (ValueError, OSError)
LIBRARY = re.compile(re.escape(str(Path(os.__file__).parent) + os.sep) + r"(?!site-packages).*")
SHOW = "FAIRSEQ_PRUNE_TRACEBACK"
# what no code of ours has raised, and what still is no fault of the program: an audio library's or torch's refusal
# (both are RuntimeErrors), and too little memory
AT_THE_EDGE = (OSError, ValueError, RuntimeError, MemoryError)


def install() -> None:
    """Where a fairseq command is running, print ``error: ...`` for what this package refuses.

    Set the environment variable FAIRSEQ_PRUNE_TRACEBACK=1 to see where it was raised.
    """
    program = Path(sys.argv[0])
    is_fairseqs = program.name.startswith("fairseq-") or program.parent.name == "fairseq_cli"
    if is_fairseqs and not os.environ.get(SHOW):
        sys.excepthook = _one_line
        os.environ["HYDRA_FULL_ERROR"] = "1"  # or else hydra prints a traceback of its own, and exits


def line(error) -> str:
    """What the edge of a command line prints of an exception: one line."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"error: not enough memory ({in_short(error)})"
    if isinstance(error, (*BAD_INPUT, AssertionError)) or type(error).__name__ == "LibsndfileError":
        return f"error: {' '.join(str(error).split())}"
    return f"error: {in_short(error)}; {SHOW}=1 shows where"


def in_short(error) -> str:
    """The kind of an exception and what it says, 300 characters at most: torch writes pages."""
    said = " ".join(str(error).split())
    said = re.split(r"(?<=[^.])\. ", said)[0]
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__


def is_ours(error) -> bool:
    """Whether an exception tells a user what is wrong with the input."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, OSError):  # the system's refusal comes through the standard library, as of pathlib
        frames = [frame for frame in frames if not LIBRARY.fullmatch(frame.filename)]
    if not frames or not str(error):
        return False
    if isinstance(error, BAD_INPUT) and frames[-1].filename.startswith(OURS):
        return True
    # fairseq asserts what options have to be, with a message
    return isinstance(error, (*BAD_INPUT, AssertionError)) and bool(FAIRSEQ.fullmatch(frames[-1].filename))


def _one_line(kind, error, trace) -> None:
    if (
        isinstance(error, (ConnectionResetError, BrokenPipeError))
        and multiprocessing.parent_process() is not None
    ):
        return  # a worker whose parent has ended: that one has said why
    refusal = next(filter(is_ours, _chain(error)), None) or _of_worker(error)
    if refusal is not None:
        print(line(refusal), file=sys.stderr)
    elif isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        print(line(error), file=sys.stderr)
    elif isinstance(error, (KeyError, TypeError)) and REGISTRIES.fullmatch(_place(error)):
        print(f"error: configuration: {in_short(error)}: expected a name that is registered", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _of_worker(error) -> Optional[ValueError]:
    """What this package refused in a process that loads data: torch hands it over as the text of a traceback."""
    text = str(error).strip()
    files = re.findall(r'^  File "(.+?)", line', text, flags=re.MULTILINE)
    if not WORKER.match(text) or not files or not files[-1].startswith(OURS):
        return None
    return ValueError(text.splitlines()[-1].partition(": ")[2])


def _place(error) -> str:
    """The file that raised an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename if frames else ""


def _chain(error):
    """An exception and those that it was raised from: fairseq's trainer wraps what fails in loading."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
