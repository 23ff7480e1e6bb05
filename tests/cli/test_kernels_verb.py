"""``fairseq-prune kernels`` says what is used, of a measurement that lies in the cache."""

import json

import pytest

from fairseq_prune.cli import kernels as verb
from fairseq_prune.compat import HAS_ONEDNN_PRODUCTS
from fairseq_prune.modules import kernels
from fairseq_prune.modules.kernels import Measured

pytestmark = pytest.mark.skipif(not HAS_ONEDNN_PRODUCTS, reason="this torch has no kernels to choose from")


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path)
    monkeypatch.setenv("FAIRSEQ_PRUNE_KERNELS", "measure")
    seconds = {"products": {"onednn": 2e-3, "torch": 1e-3}, "convolutions": {"onednn": 1.0, "torch": 1.0}}
    for frames in kernels.FRAMES:
        seconds[f"attention {frames}"] = {"torch": 1.0, "by_head": 2.0}
        seconds[f"scored {frames}"] = {"at_once": 1.0, "by_head": 300 / frames, "torch": 2.0}
    kernels.measurement(lambda: Measured(seconds, 0.7))


def test_in_words(capsys):
    assert verb.main("fairseq-prune kernels", []) == 0
    printed = capsys.readouterr().out
    assert "products: torch\n" in printed and "  products: onednn 2, torch 1\n" in printed
    assert "scored: at_once from 0 frames on, by_head from 300 frames on\n" in printed


def test_as_json(capsys, monkeypatch):
    monkeypatch.setenv("FAIRSEQ_PRUNE_KERNELS", "onednn")
    assert verb.main("fairseq-prune kernels", ["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["used"]["products"] == "onednn" and found["milliseconds"]["products"]["torch"] == 1


def test_a_setting_that_is_none(capsys, monkeypatch):
    monkeypatch.setenv("FAIRSEQ_PRUNE_KERNELS", "fast")
    assert verb.main("fairseq-prune kernels", []) == 2
    assert capsys.readouterr().err.startswith("error: FAIRSEQ_PRUNE_KERNELS: found 'fast'")
