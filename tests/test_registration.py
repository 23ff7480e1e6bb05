"""The package where fairseq is not installed."""

import subprocess
import sys

import pytest

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fairseq", "fairseq_cli", "hydra", "omegaconf"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""
IMPORT_ALL = """
from importlib import import_module
from pkgutil import walk_packages
for module in walk_packages(import_module(sys.argv[1]).__path__, sys.argv[1] + "."):
    import_module(module.name)
"""


def run_without_fairseq(code, *arguments):
    command = [sys.executable, "-c", BLOCK + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("package", ["fairseq_prune.pruning", "fairseq_prune.adapters"])
def test_a_package_that_needs_no_fairseq_is_imported_without_it(package):
    run = run_without_fairseq(IMPORT_ALL, package)
    assert run.returncode == 0, run.stderr


def test_what_needs_fairseq_says_so():
    code = "import fairseq_prune\ntry:\n    import fairseq_prune.tasks\nexcept ImportError as error:\n    print(error)"
    run = run_without_fairseq(code)
    assert "fairseq" in run.stdout and run.returncode == 0, run.stderr
