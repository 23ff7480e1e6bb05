"""What setup.py asks for."""

import re
from pathlib import Path

import pytest

SETUP = (Path(__file__).parents[1] / "setup.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("stack", ["CURRENT", "LEGACY"])
def test_torchaudio_has_one_version_as_it_is_compiled_for_one_torch(stack):
    """2.11.1 fits the range of torch 2.11 by its name, and fails to load with torch 2.11.0."""
    [version] = re.findall(rf'f"torchaudio([^;"]*); {{{stack}}}"', SETUP)
    assert re.fullmatch(r"==\d+\.\d+\.\d+", version)
