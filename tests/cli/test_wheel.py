"""The package as others install it: a wheel and an sdist, in an environment without fairseq, used from elsewhere."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ("scripts/translate.py", "scripts/_cli.py", "data_prep/prep_mustc.py", "examples/digits/run.sh")
PRUNE_A_WHISPER = """
import sys, torch, transformers
from fairseq_prune.adapters.transformers import kept_frames, prune_tokens
config = transformers.WhisperConfig(d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=40, max_source_positions=50,
    pad_token_id=2, bos_token_id=2, eos_token_id=2, decoder_start_token_id=1, num_mel_bins=8)
model = prune_tokens(transformers.WhisperForConditionalGeneration(config), keep_ratio=0.5, start_layer=1)
model.generate(torch.randn(1, 8, 100), max_new_tokens=4)
assert kept_frames(model).lengths == [13] and "fairseq" not in sys.modules
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the wheel and the sdist."""
    source, out = tmp_path_factory.mktemp("build") / "source", tmp_path_factory.mktemp("dist")
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "*_out", "build", "shared", "*.egg-info")
    )
    wheel = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    subprocess.run(wheel, cwd=source, check=True)
    sdist = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    subprocess.run([sys.executable, "-c", sdist], cwd=source, check=True)
    return out


def test_both_hold_commands_preparations_and_recipes(built):
    [wheel], [sdist] = built.glob("*.whl"), built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        f"fairseq_prune/cli/programs/{name}" for name in PROGRAMS
    } <= names and "fairseq_prune/py.typed" in names
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {*PROGRAMS, "CITATION.cff"} <= inside


@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_it_works_without_fairseq_from_another_directory(version, built, tmp_path):
    [wheel] = built.glob("*.whl")
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-V"], capture_output=True).returncode:
        pytest.skip(f"no Python {version} here")
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command):
        return subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True)

    assert run(python, "-m", "venv", "env").returncode == 0
    binaries = tmp_path / "env" / "bin"
    installed = run(binaries / "pip", "install", "-q", f"{wheel}[transformers]")
    assert installed.returncode == 0, installed.stderr
    pruned = run(binaries / "python", "-c", PRUNE_A_WHISPER)
    assert pruned.returncode == 0, pruned.stderr
    assert "translate" in run(binaries / "fairseq-prune", "--help").stdout
    needs = run(binaries / "fairseq-prune", "options", "dphubert")
    assert needs.returncode == 2 and needs.stderr.startswith("error: fairseq-prune options needs fairseq")
