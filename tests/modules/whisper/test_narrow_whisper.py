"""A Whisper that lost units and heads computes what the whole one computes with these switched off."""

import re

import pytest
import torch
from small_whisper import SIZES, clips, small_whisper

from fairseq_prune.checkpoints.whisper.export import export_huggingface
from fairseq_prune.pruning.widths import (
    fewer_heads,
    fewer_units,
    head_norms,
    masks_of_inputs,
    unit_norms,
)

UNITS, HEADS, HEAD_DIM = 20, 3, SIZES["embed_dim"] // SIZES["attention_heads"]


def logits(model):
    features, lengths = clips(80, 60)
    tokens = torch.arange(12).view(2, 6) + 4
    with torch.no_grad():
        return model(features, lengths, tokens)[0]


@pytest.fixture
def whole():
    torch.manual_seed(0)
    model = small_whisper()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def switched_off(weights, narrow, width_of, kept_of):
    """The weights with zeros where columns of the projections ``width_of`` are gone in ``narrow``."""
    new = {name: weight.clone() for name, weight in weights.items()}
    for name in weights:
        if re.search(width_of, name):
            rows = kept_of(name)
            gone = (weights[rows][:, None] == narrow[rows]).all(-1).any(1).logical_not()
            assert 0 < gone.sum() == len(gone) - len(narrow[rows])
            new[name][:, gone] = 0
    return new


def test_fewer_units(whole):
    weights = whole.state_dict()
    narrow = fewer_units(weights, UNITS)
    off = switched_off(weights, narrow, r"fc2\.weight", lambda name: name.replace("fc2", "fc1"))
    expected = logits(small_whisper(off))
    torch.testing.assert_close(logits(small_whisper(narrow, ffn_embed_dim=UNITS)), expected)
    assert not torch.allclose(expected, logits(whole))


def test_fewer_heads(whole):
    weights = whole.state_dict()
    narrow = fewer_heads(weights, HEADS, HEAD_DIM)
    off = switched_off(weights, narrow, r"out_proj\.weight", lambda name: name.replace("out_proj", "v_proj"))
    expected = logits(small_whisper(off))
    small = small_whisper(narrow, attention_heads=HEADS, head_dim=HEAD_DIM)
    torch.testing.assert_close(logits(small), expected)
    assert not torch.allclose(expected, logits(whole))


def test_the_heaviest_stay(whole):
    weights = whole.state_dict()
    for name in weights:
        if name.endswith(("fc1.weight", "v_proj.weight")):
            weights[name][-HEAD_DIM:] *= 100
    units, heads = fewer_units(weights, HEAD_DIM), fewer_heads(weights, 1, HEAD_DIM)
    for name in weights:
        if name.endswith("fc1.weight"):
            assert torch.equal(units[name], weights[name][-HEAD_DIM:])
        if name.endswith("v_proj.weight"):
            assert torch.equal(heads[name], weights[name][-HEAD_DIM:])


def test_what_needs_all_heads_refuses_fewer(whole, tmp_path):
    pytest.importorskip("transformers", reason="of the extra test")
    small = small_whisper(
        fewer_heads(whole.state_dict(), HEADS, HEAD_DIM), attention_heads=HEADS, head_dim=HEAD_DIM
    )
    with pytest.raises(
        ValueError, match="found 3 heads of 8 dimensions, expected as many as the width 32 has"
    ):
        export_huggingface(small, None, tmp_path / "out")


def test_masks_are_of_the_inputs_that_the_cuts_leave(whole):
    weights = whole.state_dict()
    norms = {**unit_norms(weights), **head_norms(weights, HEAD_DIM)}
    masks = masks_of_inputs(weights, UNITS, HEADS, HEAD_DIM, norms)
    cut = fewer_heads(fewer_units(weights, UNITS), HEADS, HEAD_DIM)
    assert set(masks) == {name for name in weights if name.endswith(("fc2.weight", "out_proj.weight"))}
    for name, mask in masks.items():
        assert (mask == mask[0]).all()
        assert torch.equal(weights[name][:, mask[0]], cut[name])
    assert all("fc2" in name for name in masks_of_inputs(weights, UNITS, None, HEAD_DIM, norms))
