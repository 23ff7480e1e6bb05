"""Output folders that appear only when they are complete."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def complete_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into, which becomes ``out`` when the block ends well.

    After an error or an interrupt nothing is left, and an earlier ``out`` stays as it was.

    Raises:
        FileExistsError: ``out`` exists, and ``overwrite`` is off.
    """
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} already exists: choose another --out, or give --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-unfinished-", dir=out.parent) as aside:
        folder = Path(aside) / out.name
        folder.mkdir()
        yield folder
        if out.exists():
            os.replace(out, Path(aside) / "replaced")
        os.replace(folder, out)
