"""A Whisper with gates against the smaller one that it becomes, and against the whole one where all are open."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_whisper import SIZES, clips, small_whisper

from fairseq_prune.cuts.base import count_weights
from fairseq_prune.cuts.gates import without_gates
from fairseq_prune.modules.whisper.gated import (
    WhisperGating,
    check_gates,
    gate_layers,
    gates_of,
    layer_macs,
    layer_parameters,
)
from fairseq_prune.modules.whisper.settings import WhisperSettings, sizes_by_component
from fairseq_prune.pruning.hard_concrete import HardConcrete

KINDS = list(WhisperGating.__dataclass_fields__)
CLIP = 80, 12  # mel frames, tokens
TOKENS = torch.randint(4, 300, (2, 12), generator=torch.Generator().manual_seed(2))


def make_gated(ungated=()):
    torch.manual_seed(0)
    model = small_whisper()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    gate_layers(model, WhisperGating(**dict.fromkeys(ungated)))
    return model.eval()


def concretes(model):
    return [module for module in model.modules() if isinstance(module, HardConcrete)]


def draw(model, seed, shift=0.0, saturated=False):
    """Arbitrary gates; ``saturated``: sure to be open or closed. One of each side stays open."""
    generator = torch.Generator().manual_seed(seed)
    for gate in concretes(model):
        values = torch.randn(len(gate.log_alpha), generator=generator) * 3 + shift
        gate.log_alpha.data = torch.where(values > 0, 60.0, -60.0) if saturated else values
    for side in (model.encoder, model.decoder):
        for gate in concretes(side.layers[0].fc2):
            gate.log_alpha.data[0] = 60.0


def checkpoint_of(model):
    options = {**SIZES, "head_dim": 0, "layer_sizes": None, "_name": "gated_whisper", "prune": "whatever"}
    return {"model": model.state_dict(), "cfg": {"model": options}}


def cut(model):
    """The model without its gates."""
    found = without_gates(checkpoint_of(model), "here")
    options = found["cfg"]["model"]
    assert options["_name"] == "whisper" and "prune" not in options
    small = small_whisper(layer_sizes=options["layer_sizes"], head_dim=options["head_dim"])
    small.load_state_dict(found["model"])
    return small


@torch.no_grad()
def logits(model):
    return model(*clips(80, 60), TOKENS)[0]


def assert_same(one, other):
    torch.testing.assert_close(other, one, atol=1e-5 * float(one.abs().max()), rtol=0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(-2, 2), st.booleans(), st.sets(st.sampled_from(KINDS), max_size=3))
def test_cutting_preserves_the_logits(seed, shift, saturated, ungated):
    gated = make_gated(ungated)
    draw(gated, seed, shift, saturated)
    assert_same(logits(gated), logits(cut(gated)))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.floats(-2, 2), st.sets(st.sampled_from(KINDS), max_size=3))
def test_sizes_at_sure_gates_are_those_of_the_cut_model(seed, shift, ungated):
    gated = make_gated(ungated)
    weights = {name: value for name, value in gated.state_dict().items() if "gates" not in name}
    draw(gated, seed, shift, saturated=True)
    small = cut(gated)
    gone = count_weights(weights)[0] - count_weights(small.state_dict())[0]
    assert int(layer_parameters(gated, expected=False) - layer_parameters(gated)) == gone
    assert layer_parameters(gated) == layer_parameters(small, expected=False)
    assert layer_macs(gated, *CLIP) == layer_macs(small, *CLIP, expected=False)


class Products:
    """MACs of a model's linear maps and attentions, of what passes through them."""

    def __init__(self, model):
        self.macs, self.seen = 0, {}
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(
                    lambda module, given, _, name=name: self.count(name, module, *given)
                )

    def count(self, name, module, x):
        rows = x.numel() // module.in_features
        self.macs += rows * module.in_features * module.out_features
        attention = name[: -len(".q_proj")]
        if name.endswith("k_proj"):
            self.seen[attention] = self.seen.get(attention, 0) + rows
        if name.endswith("q_proj"):  # in self-attention the keys of the same positions, too
            own = rows if attention.startswith("encoder") else 0
            self.macs += 2 * module.out_features * rows * self.seen.get(attention, own)


def test_macs_of_the_layers_are_those_of_the_products_in_the_model():
    gated = make_gated()
    draw(gated, 3, shift=1.0)
    small = cut(gated)
    expected = int(layer_macs(small, *CLIP, expected=False))
    products, (features, lengths) = Products(small), clips(80)
    with torch.no_grad():
        encoded, state = small.encoder(features, lengths), {}
        tokens = torch.randint(4, 300, (1, CLIP[1]))
        for step in range(1, CLIP[1] + 1):  # as texts are written
            small.decoder(tokens[:, :step], encoded, incremental_state=state, features_only=True)
    assert products.macs == expected


def test_expected_sizes_are_the_means_over_drawn_gates():
    gated = make_gated()
    draw(gated, 1, shift=1.0)
    torch.manual_seed(0)
    head_dim, dim = SIZES["embed_dim"] // SIZES["attention_heads"], SIZES["embed_dim"]
    counts = []
    for _ in range(300):
        total = 0
        for gates in gates_of(gated):
            left = int((gates.values(drawn=True) > 0).sum())
            per = head_dim * (4 * dim + 2) if gates.size == SIZES["attention_heads"] else 2 * dim + 1
            total += left * per + 2 * dim * (left > 0)
        counts.append(total)
    mean = sum(counts) / len(counts)
    assert float(layer_parameters(gated)) == pytest.approx(mean, rel=0.02)


def test_with_all_gates_open_it_is_the_dense_model():
    gated = make_gated()
    for gate in concretes(gated):
        gate.log_alpha.data.fill_(60.0)
    dense = small_whisper({name: value for name, value in gated.state_dict().items() if "gates" not in name})
    assert_same(logits(dense), logits(gated))
    assert layer_parameters(gated) == layer_parameters(dense, expected=False)


def test_gradients_of_outputs_and_of_sizes_reach_every_gate():
    gated = make_gated().train()
    for gate in concretes(gated):
        gate.log_alpha.data.normal_()
    output = gated(*clips(80, 60), TOKENS)[0].square().mean()
    for loss in (output, layer_parameters(gated), layer_macs(gated, *CLIP)):
        gated.zero_grad()
        loss.backward()
        gradients = [gate.log_alpha.grad for gate in concretes(gated)]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        # a gate that was drawn as 0 or 1 is clipped; of each layer, some are not
        assert sum(bool(gradient.any()) for gradient in gradients) > 0.6 * len(gradients)
    assert all(gradient.any() for gradient in gradients)  # of sizes, all


def test_draws_differ_and_evaluation_does_not():
    gated = make_gated()
    draw(gated, 4)
    assert torch.equal(logits(gated), logits(gated))
    gated.train()
    with torch.no_grad():
        features, lengths = clips(80, 60)
        assert not torch.equal(*(gated(features, lengths, TOKENS)[0] for _ in range(2)))


@torch.no_grad()
def test_steps_of_a_generator_are_those_of_the_cut_model():
    gated = make_gated()
    draw(gated, 6)
    features, lengths = clips(80, 60)
    steps = []
    for model in (gated, cut(gated)):
        state, encoded = {}, model.encoder(features, lengths)
        found = [model.decoder(TOKENS[:, :n], encoded, incremental_state=state)[0] for n in range(1, 7)]
        steps.append(torch.cat(found, dim=1))
    assert_same(*steps)


def close(reader):
    for gate in concretes(reader):
        gate.log_alpha.data.fill_(-60.0)


def test_a_closed_block_is_gone_but_for_its_output_bias():
    gated = make_gated()
    draw(gated, 2, shift=5.0)
    close(gated.decoder.layers[1].self_attn)
    close(gated.decoder.layers[0].encoder_attn)
    close(gated.encoder.layers[1].fc2)
    small = cut(gated)
    sizes = small.layer_sizes()
    assert sizes["decoder.self_attn"][1] == sizes["decoder.encoder_attn"][0] == sizes["encoder.fc"][1] == 0
    gone = ("decoder.layers.1.self_attn", "decoder.layers.0.encoder_attn", "encoder.layers.1.f")
    left = {name for name in small.state_dict() if name.startswith(gone)}
    assert left == {
        "decoder.layers.1.self_attn.out_proj.bias",
        "decoder.layers.0.encoder_attn.out_proj.bias",
        "encoder.layers.1.fc2.bias",
    }
    assert_same(logits(gated), logits(small))


def test_a_side_of_which_nothing_is_left_is_refused():
    gated = make_gated()
    check_gates(gated)
    close(gated.decoder)
    with pytest.raises(ValueError, match="the gates close all blocks of the decoder"):
        check_gates(gated)
    with pytest.raises(ValueError, match="here: the gates close all blocks of the decoder"):
        without_gates(checkpoint_of(gated), "here")


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="here: found a model 'whisper', expected gated_whisper"):
        without_gates({"model": {}, "cfg": {"model": {"_name": "whisper"}}}, "here")


@pytest.mark.parametrize(
    "sizes, message",
    [
        ("[", "--layer-sizes: found '\\[', expected lists of encoder.self_attn \\(2 layers\\)"),
        ({"encoder.fc": [3, 4]}, "expected lists of encoder.self_attn"),
        ({"encoder.fc": [3]}, "found \\[3\\] for encoder.fc"),
        ({"decoder.fc": [3, 4, -1]}, "found \\[3, 4, -1\\] for decoder.fc"),
    ],
)
def test_sizes_that_are_none_are_refused(sizes, message):
    if isinstance(sizes, dict) and "expected" not in message:
        sizes = {**sizes_by_component(WhisperSettings(**SIZES)), **sizes}
    text = sizes if isinstance(sizes, str) else json.dumps(sizes)
    with pytest.raises(ValueError, match=message):
        sizes_by_component(WhisperSettings(**SIZES, head_dim=8, layer_sizes=text))
