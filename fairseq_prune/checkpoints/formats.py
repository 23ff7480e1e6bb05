"""The table of export formats. The function that writes a format registers itself with `export_format`.

To add a format, write its file into the folder of its models (`hubert/`, `whisper/`): `formats_of` finds it there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ExportFormat:
    """A row of the table.

    name: for ``--format``.
    models: registered names of the models that have this format, as patterns (``whisper*``).
    int8: whether the format can hold weights of 8 bits.
    write: called with model, task, path to write and the options of ``scripts/export.py``. It loads back what it
        wrote, and raises ValueError if the outputs differ.
    """

    name: str
    models: tuple[str, ...]
    int8: bool
    write: Callable[[Any, Any, Path, Any], None]


FORMATS: list[ExportFormat] = []


def export_format(name: str, models: tuple[str, ...], int8: bool = False) -> Callable:
    """For the function that writes a format: put it into the table."""

    def register(write: Callable) -> Callable:
        FORMATS.append(ExportFormat(name, models, int8, write))
        return write

    return register


def formats_of(model_name: str) -> dict[str, ExportFormat]:
    """The formats that a model can be written in, by name.

    Raises:
        ValueError: it has none.
    """
    for family in iter_modules([str(FOLDER)]):
        for module in iter_modules([str(FOLDER / family.name)]) if family.ispkg else ():
            import_module(f"{__package__}.{family.name}.{module.name}")
    found = {row.name: row for row in FORMATS if any(fnmatch(model_name, kind) for kind in row.models)}
    if not found:
        known = sorted({kind for row in FORMATS for kind in row.models})
        raise ValueError(f"a model {model_name!r} has no export format; found formats for {', '.join(known)}")
    return dict(sorted(found.items()))
