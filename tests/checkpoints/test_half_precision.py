"""Checkpoints with matrices of 16 bits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_prune.checkpoints.half_precision import KEY, halved, in_single
from fairseq_prune.checkpoints.loading import load_checkpoint_file
from fairseq_prune.checkpoints.sparse import compact


def checkpoint(scale=1.0):
    generator = torch.Generator().manual_seed(0)
    model = {
        "fc1.weight": scale * torch.randn(40, 30, generator=generator),
        "fc1.bias": scale * torch.randn(40, generator=generator),
        "steps": torch.tensor([3]),
        "double": torch.randn(3, 4, generator=generator).double(),
    }
    return {"model": model, "cfg": {"model": {"_name": "some"}}}


@given(scale=st.sampled_from([1e-9, 1e-6, 1.0, 1e4]))
def test_matrices_lose_what_float16_does_not_hold_and_nothing_else_does(scale):
    before = checkpoint(scale)
    stored = halved(before, "c.pt")
    assert {name: value.dtype for name, value in stored["model"].items()} == {
        **{name: value.dtype for name, value in before["model"].items()},
        "fc1.weight": torch.float16,
    }
    read = in_single(stored)
    weight = before["model"]["fc1.weight"]
    assert torch.equal(read["model"].pop("fc1.weight"), weight.half().float())
    assert all(torch.equal(value, before["model"][name]) for name, value in read["model"].items())
    assert read["cfg"] == before["cfg"] and KEY not in read


@pytest.mark.parametrize("zeros", [0.0, 0.9])
@pytest.mark.parametrize("and_compact", [False, True])
def test_a_file_is_read_in_float32(zeros, and_compact, tmp_path):
    before = checkpoint()
    weight = before["model"]["fc1.weight"]
    weight[: int(zeros * len(weight))] = 0
    stored = halved(before, "c.pt")
    torch.save(compact(stored) if and_compact else stored, tmp_path / "c.pt")
    read = load_checkpoint_file(tmp_path / "c.pt")
    assert torch.equal(read["model"]["fc1.weight"], weight.half().float())
    assert set(read) == set(before)


@pytest.mark.parametrize("number", [65_520.0, -1e6, float("inf"), float("nan")])
def test_a_number_that_float16_has_not_is_refused(number):
    before = checkpoint()
    before["model"]["fc1.weight"][1, 2] = number
    with pytest.raises(ValueError, match=r"c.pt: fc1.weight: found a weight of .*, expected at most 65504"):
        halved(before, "c.pt")


def test_what_was_trained_in_float16_stays_as_it_was():
    before = {"model": {name: value.half() for name, value in checkpoint()["model"].items()}}
    stored = halved(before, "c.pt")
    assert all(torch.equal(value, before["model"][name]) for name, value in stored["model"].items())
