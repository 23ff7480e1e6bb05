"""Sparsity by component."""

import pytest
import torch

from fairseq_prune.pruning.components import COMPONENTS, by_component, component_masks, component_of
from fairseq_prune.pruning.magnitude import magnitude_masks, sparsity_of

NAMES = [
    "encoder.layers.0.self_attn.q_proj.weight",
    "encoder.layers.1.fc1.weight",
    "decoder.layers.0.self_attn.out_proj.weight",
    "decoder.layers.0.encoder_attn.v_proj.weight",
    "decoder.layers.2.fc2.weight",
]


@pytest.mark.parametrize(("name", "component"), list(zip(NAMES, COMPONENTS)))
def test_the_component_of_a_matrix(name, component):
    assert component_of(name) == component
    assert component_of(f"w2v_encoder.w2v_model.{name}") == component
    assert component_of(name.replace("weight", "bias")) is None


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layers.0.self_attn_layer_norm.weight",
        "decoder.embed_tokens.weight",
        "encoder.conv1.weight",
        "encoder.layers.fc1.weight",
    ],
)
def test_what_is_in_no_component(name):
    assert component_of(name) is None


def test_weights_compete_within_their_component():
    scores = {name: torch.rand(6, 8) * 10**i for i, name in enumerate(NAMES)}
    scores["encoder.layers.0.fc2.weight"] = torch.rand(5, 4)
    sparsities = {"encoder.fc": 0.4, "decoder.self_attn": 0.25}
    masks = component_masks(scores, sparsities, "global")
    parts = by_component(scores)
    assert list(masks) == [name for name in scores if component_of(name) in sparsities]
    for component, sparsity in sparsities.items():
        alone = magnitude_masks({name: scores[name] for name in parts[component]}, sparsity)
        assert all(torch.equal(masks[name], mask) for name, mask in alone.items())
    assert sparsity_of({name: masks[name] for name in parts["decoder.self_attn"]}) == 0.25


def test_a_component_that_is_not_there_and_a_sparsity_out_of_range_are_refused():
    scores = {NAMES[0]: torch.rand(3, 3)}
    with pytest.raises(ValueError, match=r"found 'decoder.fc', expected some of encoder\.self_attn"):
        component_masks(scores, {"decoder.fc": 0.5}, "global")
    with pytest.raises(ValueError, match=r"sparsity of encoder\.self_attn: found 1\.5"):
        component_masks(scores, {"encoder.self_attn": 1.5}, "global")
