"""Outputs that appear under their final name only when they are complete, and files of results that grow."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNFINISHED = re.compile(r"\.[^/]*-unfinished-[^/]*/")  # where outputs are until they are complete


@contextlib.contextmanager
def complete(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A path to write a file or a folder to, which becomes ``out`` when the block ends well.

    After an error or an interrupt nothing is left, and an earlier ``out`` stays as it was.

    Raises:
        FileExistsError: ``out`` exists, and ``overwrite`` is off.
    """
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} already exists: choose another --out, or give --overwrite")
    final = out.resolve()
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{final.name}-unfinished-", dir=final.parent) as aside:
        written = Path(aside) / final.name
        yield written
        if final.is_dir():  # a folder cannot be replaced in one step, a file can
            os.replace(final, Path(aside) / "replaced")
        os.replace(written, final)


@contextlib.contextmanager
def complete_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """As `complete`, with a folder that is already made."""
    with complete(out, overwrite) as folder:
        folder.mkdir()
        yield folder


def results_of(path: Path) -> list[Any]:
    """The content of a file of JSON lines, to which runs add lines; nothing if there is no file.

    A run that was killed may have left a part of its last line, which is cut off in place. Whole lines are never
    written again, so that neither a kill nor another run loses them.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    return [json.loads(line) for line in content[:end].split(b"\n") if line]
