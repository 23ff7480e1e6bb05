"""Fixtures that several folders of tests share."""

import os

import pytest
import torch
from fork_server import FORKS
from hypothesis import settings
from mustc_corpus import run_prep_mustc, write_corpus

# what a test finds must not depend on a measurement of its machine; programs that tests run inherit it
os.environ["FAIRSEQ_PRUNE_KERNELS"] = "onednn"

# the same examples at every run, so that a run judges a change alone; HYPOTHESIS_PROFILE=default draws new ones
settings.register_profile("same", derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session")
def forks():
    """Runs programs in forks, see `fork_server`."""
    yield FORKS
    FORKS.close()


@pytest.fixture(scope="session")
def must_c_root(tmp_path_factory):
    """ROOT of a tiny corpus in MuST-C's layout: two talks a split, words are tones, German is reversed."""
    root = tmp_path_factory.mktemp("must-c")
    write_corpus(root)
    return root


@pytest.fixture(scope="session")
def prepared_data(must_c_root, tmp_path_factory):
    """The data directory that prep_mustc.py makes of ``must_c_root``."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    run = run_prep_mustc(must_c_root, out, "--vocab-size", "24", "--src-vocab-size", "24")
    assert run.returncode == 0, run.stderr
    return out


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request):
    """Each of the engines that run an export, where it is installed."""
    pytest.importorskip(request.param, reason="in an extra of the current stack")
    return request.param


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def half_dtype(request):
    """Each of the half-precision types, where the installed torch can multiply matrices of it on the CPU."""
    if request.param == torch.float16 and torch.__version__.startswith("2.0."):
        pytest.skip("torch 2.0 has no half-precision matrix product on the CPU")
    return request.param
