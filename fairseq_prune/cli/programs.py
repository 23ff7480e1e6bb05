"""The programs of scripts/ and data_prep/, which verbs run: in a repository, or in an installed package."""

import ast
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

FOLDERS = ("scripts", "data_prep", "examples")
INSTALLED = Path(__file__).parent / "programs"  # setup.py copies the folders there
REPOSITORY = Path(__file__).parent.parent.parent


def folder(name: str) -> Path:
    """One of `FOLDERS`."""
    root = INSTALLED if INSTALLED.is_dir() else REPOSITORY
    return root / name


def run(program: str, name: str, arguments: list[str]) -> None:
    """Run a program as a shell would.

    Args:
        program: such as "scripts/translate.py".
        name: what its messages call it.
    """
    path = folder(program.partition("/")[0]) / program.partition("/")[2]
    sys.argv = [name, *arguments]
    sys.path.insert(0, str(path.parent))  # of the modules beside it
    spec = spec_from_file_location("__main__", path)
    sys.modules["__main__"] = module = module_from_spec(spec)
    module.__spec__ = None  # as of a file that a shell runs
    spec.loader.exec_module(module)


def first_line(path: Path) -> str:
    """Of a program's description, without running it."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].partition(" See --help")[0]
