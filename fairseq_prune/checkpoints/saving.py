"""Writing files so that under their name there is the whole content, or what was there before."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

UNFINISHED = ".tmp"  # fairseq's own ending for a file that is being written


@contextmanager
def whole_file(path) -> Iterator[Path]:
    """A path aside to write to, which becomes ``path`` when the block ends well, and goes away when it does not.

    Raises:
        OSError: the system refused to write; names ``path``, not the one aside.
    """
    path = Path(path)
    aside = path.with_name(path.name + UNFINISHED)
    aside.unlink(missing_ok=True)  # of a process that was killed
    try:
        yield aside
        os.replace(aside, path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise type(refusal)(f"{path}: not written: {refusal.strerror or refusal}") from error


def _refusal(error) -> OSError:
    """The system's refusal among an exception and those before it: torch raises another one after it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def save(content, path) -> None:
    """`torch.save`, in full or not at all, and on the disk before the name is there.

    Raises:
        OSError: the disk is full, the file too large, or the folder not writable; names ``path``.
    """
    with whole_file(path) as aside, open(aside, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def give_another_name(path, name) -> None:
    """Let the whole file ``path`` be under ``name``, too; what was there is there until then.

    Both are one file on the disk where the file system has hard links. fairseq and this package never write into
    a checkpoint in place, so neither name changes the other.

    Raises:
        OSError: the system refused; names ``name``.
    """
    if os.path.exists(name) and os.path.samefile(path, name):
        return
    with whole_file(name) as aside:
        try:
            os.link(path, aside)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, aside)
