"""Zeros in a checkpoint: noted as PARP notes its own, and a beginning for PARP."""

import pytest
import torch

from fairseq_prune.checkpoints.sparse import STATE, masks_of
from fairseq_prune.cuts.sparser_weights import component_weights, with_sparse_weights
from fairseq_prune.pruning.magnitude import random_masks, sparsity_of, unpack_masks
from fairseq_prune.pruning.parp import MagnitudePruner, PruningPlan

NAMES = ("encoder.layers.0.fc1.weight", "decoder.layers.0.self_attn.q_proj.weight")


def checkpoint():
    torch.manual_seed(0)
    weights = {name: torch.randn(8, 10) for name in NAMES}
    return {
        "model": {**weights, "encoder.conv1.weight": torch.randn(3, 3)},
        "cfg": {"model": {"_name": "whisper", "prune_sparsity": 0.9}},
        "extra_state": {"ema": {}, "epoch": 1},
        "last_optimizer_state": {"step": 1},
    }


def test_the_masks_are_noted_and_what_stays_is_as_it_was():
    before = checkpoint()
    weights = component_weights(before, "w.pt")
    assert list(weights) == list(NAMES)
    masks = random_masks(weights, 0.4, seed=1)
    after = with_sparse_weights(before, masks, "random-global", "w.pt")
    for name, mask in masks.items():
        assert torch.equal(after["model"][name], weights[name] * mask)
        assert torch.equal(before["model"][name], weights[name]) and (before["model"][name] != 0).all()
    noted = unpack_masks(after[STATE]["masks"])
    assert all(torch.equal(noted[name], mask) for name, mask in masks.items())
    assert after[STATE]["sparsity"] == sparsity_of(masks) and after[STATE]["method"] == "random-global"
    assert after["last_optimizer_state"] is None and "ema" not in after["extra_state"]
    read = {**after, "model": {**after["model"], STATE: after[STATE]}}
    assert all(torch.equal(found, masks[name]) for name, found in masks_of(read, "w.pt").items())


def test_parp_begins_with_the_mask_of_the_file():
    weights = component_weights(checkpoint(), "w.pt")
    masks = random_masks(weights, 0.5, seed=3)
    sparse = with_sparse_weights(checkpoint(), masks, "random-global", "w.pt")
    parameters = {name: torch.nn.Parameter(sparse["model"][name]) for name in NAMES}
    pruner = MagnitudePruner(parameters, PruningPlan("parp", 0.5, interval=2, end=8))
    assert pruner.after_update(0)
    assert all(torch.equal(pruner.masks[name], mask) for name, mask in masks.items())


def test_a_file_without_layers_is_refused():
    with pytest.raises(ValueError, match=r"w\.pt: no Transformer layers to prune.*found conv\.weight"):
        component_weights({"model": {"conv.weight": torch.ones(2)}}, "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt: not a checkpoint of fairseq"):
        component_weights({"weights": {}}, "w.pt")
