"""Which kernels are chosen of a measurement, and how it is kept; no test depends on the machine's speed."""

import json
from itertools import count

import pytest

from fairseq_prune.compat import HAS_ONEDNN_PRODUCTS
from fairseq_prune.modules import kernels, onednn
from fairseq_prune.modules.kernels import Measured
from fairseq_prune.modules.onednn import Kernels

pytestmark = pytest.mark.skipif(not HAS_ONEDNN_PRODUCTS, reason="this torch has no kernels to choose from")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The user's cache, and nothing chosen afterwards."""
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path / "cache")
    with onednn.using(Kernels()):
        yield tmp_path / "cache"


def seconds(product=1.0, convolution=1.0, attention=1.0, scored=1.0):
    """Of ways that are not the usual ones, which take 1 each."""
    found = {
        "products": {"onednn": 1.0, "torch": product, "bfloat16": 0.1},
        "convolutions": {"onednn": 1.0, "torch": convolution},
    }
    for frames in kernels.FRAMES:
        found[f"attention {frames}"] = {"torch": 1.0, "by_head": attention * 100 / frames}
        found[f"scored {frames}"] = {"at_once": 1.0, "by_head": scored, "torch": 2.0}
    return found


def test_the_least_seconds_win():
    assert kernels.fastest(seconds(0.9, 0.8, 2.5, 0.5)) == Kernels(
        "torch", "torch", ((0, "torch"), (300, "by_head")), ((0, "by_head"),)
    )


def test_a_little_faster_is_no_reason_to_change():
    found = kernels.fastest(seconds(0.98, 0.98))
    assert (found.products, found.convolutions) == ("onednn", "onednn")


def test_a_measurement_is_made_once_and_kept(folder):
    made = []

    def measure():
        made.append(1)
        return Measured(seconds(product=0.5), 0.7)

    first = kernels.kernels_for("measure", measure)
    assert first == kernels.kernels_for("measure", measure) and first.products == "torch"
    assert len(made) == 1
    kernels.measurement(measure, again=True)
    assert len(made) == 2
    assert [file.name for file in folder.iterdir()] == ["kernels.json"]


def test_other_machines_are_kept_beside(folder, monkeypatch):
    for name, product in (("one", 0.5), ("other", 2.0)):
        monkeypatch.setattr(kernels, "machine", lambda name=name: name)
        kernels.measurement(lambda product=product: Measured(seconds(product), 0.7))
    found = kernels.read(folder / "kernels.json")
    assert {name: row.kernels.products for name, row in found.items()} == {"one": "torch", "other": "onednn"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{machine: 1}",
        "{machine: {version: 0}}",
        "{machine: {version: 2, took: 1, seconds: {}}}",
        "{machine: {version: 2, took: 1, seconds: {products: {onednn: fast}}}}",
    ],
)
def test_what_is_damaged_or_old_is_measured_again(folder, content):
    folder.mkdir()
    content = content.replace("machine", json.dumps(kernels.machine()))
    for word in ("version", "took", "seconds", "products", "onednn", "fast"):
        content = content.replace(word, json.dumps(word))
    (folder / "kernels.json").write_text(content)
    found = kernels.kernels_for("measure", lambda: Measured(seconds(product=0.5), 0.7))
    assert found.products == "torch"
    assert list(kernels.read(folder / "kernels.json")) == [kernels.machine()]


def test_a_cache_that_cannot_be_written_to_is_no_error(folder):
    folder.write_text("a file, where a folder should be")
    found = kernels.kernels_for("measure", lambda: Measured(seconds(product=0.5), 0.7))
    assert found.products == "torch"


def test_a_setting_fixes_it(monkeypatch):
    def fail():
        raise AssertionError("nothing is to be measured")

    assert kernels.kernels_for("onednn", fail) == Kernels() and kernels.kernels_for("torch", fail) is None
    monkeypatch.setenv("FAIRSEQ_PRUNE_KERNELS", "torch")
    assert kernels.choose() is None and onednn.use(None) is None
    monkeypatch.setenv("FAIRSEQ_PRUNE_KERNELS", "fast")
    with pytest.raises(ValueError, match="FAIRSEQ_PRUNE_KERNELS: found 'fast', expected one of measure"):
        kernels.choose()


def test_all_that_is_compared_is_timed_and_leaves_no_trace():
    import torch

    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    clock = count()
    found = kernels.measure_all(lambda: next(clock))  # every call takes a second
    assert torch.equal(torch.rand(1), expected) and onednn.use(None) == Kernels()
    assert found.seconds["scored 50"] == {"torch": 1, "by_head": 1, "at_once": 1}
    assert kernels.fastest(found.seconds).products == "onednn"


def test_the_machine_names_what_limits_its_instructions(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in kernels.machine() and " thread" in kernels.machine()
