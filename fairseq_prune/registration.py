"""Registration with fairseq: when fairseq is in use, and not before."""

import importlib
import logging
import sys
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from pkgutil import iter_modules

PACKAGE = __name__.rpartition(".")[0]
FOLDERS = ("criterions", "models", "optim", "tasks")  # all that registers something

_in_progress = False


def begin() -> None:
    """Register where fairseq is loaded already; else as soon as fairseq is told to use this package."""
    # fairseq asks for tensorboardX, which nothing here needs, while it is imported
    logging.getLogger("fairseq.tasks.text_to_speech").addFilter(
        lambda record: "tensorboardX" not in str(record.msg)
    )
    if "fairseq" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterFairseq())


def register() -> None:
    """Import all that registers something with fairseq; safe to call again.

    Raises:
        ImportError: fairseq is not installed.
    """
    global _in_progress
    if _in_progress:  # each of the folders calls this function while it is imported
        return
    if find_spec("fairseq") is None:
        raise ModuleNotFoundError(f"this needs fairseq: pip install '{PACKAGE}[fairseq]'", name="fairseq")
    _in_progress = True
    try:
        for mended in ("compat", "errors", "patches"):
            importlib.import_module(f"{PACKAGE}.{mended}").install()
        for folder in FOLDERS:
            package = importlib.import_module(f"{PACKAGE}.{folder}")
            for module in iter_modules(package.__path__):
                importlib.import_module(f"{package.__name__}.{module.name}")
    finally:
        _in_progress = False


class _AfterFairseq(MetaPathFinder):
    """Mends fairseq as soon as it is imported, and lets its ``--user-dir`` register this package.

    fairseq does nothing for a user-dir that is in `sys.modules`. To register as soon as fairseq is there would be too
    early: it may be a module of this package that imports it.
    """

    def find_spec(self, name, path=None, target=None):
        if name != "fairseq":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_mend(module):
                execute(module)
                importlib.import_module(f"{PACKAGE}.compat")
                module.utils.import_user_module = _register_too(module.utils.import_user_module)

            spec.loader.exec_module = execute_and_mend
        return spec


def _register_too(import_user_module):
    @wraps(import_user_module)
    def import_and_register(args):
        import_user_module(args)
        if getattr(args, "user_dir", None) is not None and PACKAGE in sys.modules:
            register()

    return import_and_register
