"""Libraries that only some formats need, and that an installation may not have."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType


def import_extra(name: str, extra: str) -> ModuleType:
    """Import the library ``name``; ValueError says which extra of this package brings it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"{name} cannot be used ({error}): pip install fairseq_prune[{extra}]") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the notes and warnings that exporters write about their own doings; errors are raised as ever."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
