"""The files of pruning/ are of use in any torch program."""

import subprocess
import sys
from pathlib import Path

import pytest

import fairseq_prune.pruning

FILES = sorted(Path(fairseq_prune.pruning.__file__).parent.glob("[!_]*.py"))
LOAD = """
import importlib, importlib.util, pathlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fairseq", "fairseq_prune"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
file = pathlib.Path(sys.argv[1])  # in a folder that is taken out of the package, under a name of its own
spec = importlib.util.spec_from_file_location(
    "alone", file.parent / "__init__.py", submodule_search_locations=[str(file.parent)]
)
sys.modules["alone"] = importlib.util.module_from_spec(spec)
importlib.import_module("alone." + file.stem)
assert "fairseq" not in sys.modules
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_file_loads_without_fairseq(path):
    run = subprocess.run([sys.executable, "-c", LOAD, str(path)], stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr


def test_a_file_that_needs_fairseq_would_be_found():
    path = FILES[0].parent.parent / "modules" / "hubert" / "encoder.py"
    run = subprocess.run([sys.executable, "-c", LOAD, str(path)], stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1 and "ImportError: fairseq" in run.stderr
