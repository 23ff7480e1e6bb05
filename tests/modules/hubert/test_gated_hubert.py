"""The gated encoder against the smaller one that it becomes, and against fairseq's where all gates are open.

Over 300 lines: each kind of gate has tests, alone and with the others.
"""

import math

import pytest
import torch
from fairseq.models.hubert import HubertConfig
from hubert_models import FORMS, SAMPLES, SIZES, in_a_batch, make_hubert
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fairseq_prune.modules.frames import TokenPruning
from fairseq_prune.modules.hubert.cutting import cut_gates
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.hubert.gated import GatedHubert, Gating
from fairseq_prune.modules.hubert.shapes import HubertShapes
from fairseq_prune.modules.onednn import torchs_own
from fairseq_prune.pruning.hard_concrete import HardConcrete

KINDS = list(Gating.__dataclass_fields__)


def make_gated(form="base", gating=None, **kwargs):
    torch.manual_seed(0)
    gated = GatedHubert(
        HubertConfig(**SIZES, **FORMS[form]), gating, normalize=form == "large", **kwargs
    ).eval()
    for name, parameter in gated.named_parameters():
        if "log_alpha" not in name:  # biases and norms that are not 0 and 1, as in a trained model
            parameter.data += 0.05 * torch.randn_like(parameter)
    return gated


def gates_of(gated):
    return {name: gate for name, gate in gated.gates.named_modules() if isinstance(gate, HardConcrete)}


def draw_gates(gated, seed, spread=3.0, shift=0.0, saturated=False):
    """Arbitrary gates, none of a convolution all closed; ``saturated``: sure to be open or closed."""
    generator = torch.Generator().manual_seed(seed)
    for name, gate in gates_of(gated).items():
        values = torch.randn(len(gate.log_alpha), generator=generator) * spread + shift
        if name.startswith("conv_channels"):
            values[0] = 6.0
        if saturated:
            values = torch.where(values > 0, 60.0, -60.0)
        gate.log_alpha.data = values


def parameters_of(model):
    return sum(parameter.numel() for parameter in model.parameters())


def assert_same_outputs(gated, small, atol=1e-5):
    torch.manual_seed(3)
    batch = in_a_batch(torch.randn(SAMPLES // 2), (SAMPLES, 6000))
    with torch.no_grad():
        (before, padding), (after, small_padding) = gated.layer_outputs(*batch), small.layer_outputs(*batch)
    assert torch.equal(padding, small_padding) and len(before) == len(after) == 5
    for x, y in zip(before, after):
        valid = ~padding
        torch.testing.assert_close(y[valid], x[valid], atol=atol, rtol=1e-4)


def drawn_open(gated):
    """Have hypothesis draw again where the gates close a whole stage, which is refused (tested below)."""
    try:
        gated.check_gates()
    except ValueError:
        reject()


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(list(FORMS)), st.integers(0, 10**6), st.floats(-2, 2), st.sets(st.sampled_from(KINDS)))
def test_cutting_preserves_the_outputs_of_all_layers(form, seed, shift, ungated):
    gated = make_gated(form, Gating(**dict.fromkeys(ungated)))
    draw_gates(gated, seed, shift=shift)
    drawn_open(gated)
    assert_same_outputs(gated, cut_gates(gated))


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(list(FORMS)), st.integers(0, 10**6), st.floats(-2, 2), st.sets(st.sampled_from(KINDS)))
def test_expected_sizes_at_sure_gates_are_those_of_the_cut_model(form, seed, shift, ungated):
    gated = make_gated(form, Gating(**dict.fromkeys(ungated)))
    draw_gates(gated, seed, shift=shift, saturated=True)
    drawn_open(gated)
    small = cut_gates(gated)
    assert gated.expected_parameters().item() == parameters_of(small)
    assert gated.expected_macs(SAMPLES).item() == small.macs(SAMPLES)["total"]


@pytest.mark.parametrize("form", FORMS)
def test_expected_sizes_are_the_means_over_drawn_gates(form):
    """Sizes of what a draw leaves, counted on the masks; the sum over layers has products of random sizes."""
    gated = make_gated(form)
    draw_gates(gated, 1, spread=1.0, shift=2.0)
    torch.manual_seed(0)
    counts = []
    for _ in range(200):
        masks = gated.masks(drawn=True)
        channels = [int((mask > 0).sum()) for mask in masks.channels]
        layers = HubertShapes(
            [int((mask > 0).sum()) for mask in masks.heads],
            [int((mask > 0).sum()) for mask in masks.units],
            gated.shapes.head_dim,
            True,
        ).layer_sizes()
        dense = gated._prunable_parameters(gated._channels, gated.shapes.layer_sizes())
        parameters = gated.dense_parameters() - dense + gated._prunable_parameters(channels, layers)
        counts.append((parameters, gated._macs(SAMPLES, channels, layers)["total"]))
    means = torch.tensor(counts, dtype=torch.float64).mean(0)
    assert gated.expected_parameters().item() == pytest.approx(means[0].item(), rel=0.02)
    assert gated.expected_macs(SAMPLES).item() == pytest.approx(means[1].item(), rel=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_with_all_gates_open_it_is_the_dense_model(form):
    gated = make_gated(form)
    for gate in gates_of(gated).values():
        gate.log_alpha.data.fill_(60.0)
    dense = TokenPrunedHubert(HubertConfig(**SIZES, **FORMS[form]), normalize=form == "large").eval()
    dense.load_state_dict({k: v for k, v in gated.state_dict().items() if not k.startswith("gates.")})
    assert_same_outputs(gated, dense)
    assert gated.dense_parameters() == parameters_of(dense) == gated.expected_parameters().item()
    assert gated.dense_macs(SAMPLES) == dense.macs(SAMPLES)["total"]


def test_without_any_gate_it_is_the_dense_model():
    gated = make_gated(gating=Gating(*[None] * len(KINDS)))
    assert gated.gate_parameters() == []
    assert_same_outputs(gated, cut_gates(gated))
    assert gated.expected_parameters().item() == gated.dense_parameters()


def test_closed_channels_leave_no_trace_in_the_statistics():
    """The published code lets the features' layer norm see zeros; here what is closed may hold anything."""
    gated = make_gated("large")
    draw_gates(gated, 5)
    source = torch.randn(1, SAMPLES)
    before = gated(source, [SAMPLES]).x
    for conv, mask in zip(gated.feature_extractor.conv_layers, gated.masks().channels):
        conv[0].weight.data[mask == 0] = 7.0
        conv[0].bias.data[mask == 0] = -3.0
    torch.testing.assert_close(gated(source, [SAMPLES]).x, before, rtol=1e-4, atol=1e-4)


def close(gated, kind, index):
    gates_of(gated)[f"{kind}.{index}"].log_alpha.data.fill_(-60.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("by", ["parts", "whole"])
def test_a_closed_block_is_gone_but_for_its_output_bias(form, by):
    gated = make_gated(form)
    draw_gates(gated, 2, shift=5.0)
    close(gated, "attention_heads" if by == "parts" else "attention_blocks", 1)
    close(gated, "feed_forward_units" if by == "parts" else "feed_forward_blocks", 2)
    small = cut_gates(gated)
    assert small.shapes.heads[1] == 0 and small.shapes.units[2] == 0
    left = {
        name
        for name in small.state_dict()
        if name.startswith(("encoder.layers.1.self", "encoder.layers.2.f"))
    }
    expected = {"encoder.layers.1.self_attn.out_proj.bias", "encoder.layers.2.fc2.bias"}
    if form == "base":  # a norm after a block stays
        norms = ("encoder.layers.1.self_attn_layer_norm", "encoder.layers.2.final_layer_norm")
        expected |= {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")}
    assert left == expected
    assert_same_outputs(gated, small)


def test_a_cut_model_can_be_gated_and_cut_again():
    gated = make_gated()
    draw_gates(gated, 2)
    close(gated, "attention_blocks", 1)
    small = cut_gates(gated)
    again = GatedHubert(small.cfg, shapes=small.shapes).eval()
    again.load_state_dict(small.state_dict(), strict=False)
    draw_gates(again, 3)
    smaller = cut_gates(again)
    assert parameters_of(smaller) < parameters_of(small)
    assert_same_outputs(again, smaller)


def test_without_a_projection_the_last_channels_stay():
    cfg = HubertConfig(**{**SIZES, "conv_feature_layers": "[(16,10,5), (32,8,4), (64,16,16)]"})
    gated = GatedHubert(cfg).eval()
    draw_gates(gated, 0)
    small = cut_gates(gated)
    assert set(gated.gates["conv_channels"]) == {"0", "1"}
    assert [conv[0].out_channels for conv in small.feature_extractor.conv_layers][-1] == 64
    assert_same_outputs(gated, small)


def test_a_projection_stays_where_the_channels_left_are_as_many_as_the_width():
    cfg = HubertConfig(**{**SIZES, "conv_feature_layers": "[(16,10,5), (80,8,4)]"})
    gated = GatedHubert(cfg).eval()
    draw_gates(gated, 0, shift=9.0)
    gates_of(gated)["conv_channels.1"].log_alpha.data[64:] = -60.0
    small = cut_gates(gated)
    assert small.post_extract_proj.in_features == 64
    assert_same_outputs(gated, small)


@pytest.mark.parametrize("form", FORMS)
def test_training_draws_gates_anew_and_reaches_all_of_them(form):
    gated = make_gated(form).train()
    draw_gates(gated, 4, spread=0.1)
    batch = in_a_batch(torch.randn(3000), (4000, 2000))
    states = [
        gated.layer_outputs(*batch)[0] for _ in range(20)
    ]  # a gate that is drawn as 0 or 1 has no gradient
    assert not torch.equal(states[0][-1], states[1][-1])
    sum(state.square().sum() for drawn in states for state in drawn).backward()
    assert all(gate.grad.abs().sum() > 0 for gate in gated.gate_parameters())
    assert all("log_alpha" in name for name, _ in gated.gates.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "count", [GatedHubert.expected_parameters, lambda gated: gated.expected_macs(SAMPLES)]
)
def test_gradients_of_expected_sizes_are_their_differences(kind, count):
    gated = make_gated("large")
    draw_gates(gated, 9, spread=0.5)
    gate = gates_of(gated)[f"{kind}.1"].log_alpha
    count(gated).backward()
    values = gate.data.clone()
    sizes = []
    for step in (0.05, -0.05):
        gate.data = values + step
        sizes.append(count(gated).item())
    assert gate.grad.sum().item() == pytest.approx((sizes[0] - sizes[1]) / 0.1, rel=0.01)


def test_counts_do_not_overflow_in_half_precision(half_dtype):
    gated = make_gated("large")
    draw_gates(gated, 6)
    expected = gated.expected_parameters().item()
    gated.to(half_dtype)
    assert expected > 65504 and gated.expected_parameters().dtype == torch.float32
    assert gated.expected_parameters().item() == expected
    out = gated(torch.randn(1, SAMPLES), [SAMPLES]).x
    assert out.dtype == half_dtype and out.isfinite().all()


def test_what_is_cut_is_in_the_precision_of_what_it_was_cut_from():
    gated = make_gated("large").double()
    draw_gates(gated, 6)
    small = cut_gates(gated)
    assert {value.dtype for value in small.state_dict().values()} == {torch.float64}
    for name, value in small.state_dict().items():  # none went through float32
        if value.shape == gated.state_dict().get(name, value[:0]).shape:
            assert torch.equal(value, gated.state_dict()[name])


def test_a_stage_without_channels_is_an_error():
    gated = make_gated()
    close(gated, "conv_channels", 3)
    with pytest.raises(ValueError, match="the gates close all 32 channels of convolution 3"):
        cut_gates(gated)


def test_a_transformer_without_blocks_is_an_error():
    gated = make_gated()
    for layer in range(4):
        close(gated, "attention_heads", layer), close(gated, "feed_forward_blocks", layer)
    with pytest.raises(ValueError, match="the gates close all blocks of the transformer"):
        gated.check_gates()


def test_layer_outputs_are_those_of_fairseq():
    hubert = make_hubert(ratios=[1.0] * 4)
    from hubert_models import reference_of

    reference = reference_of(hubert)
    source = torch.randn(2, SAMPLES)
    states, padding = hubert.layer_outputs(source, [SAMPLES] * 2)
    for layer in (1, 2, 4):
        expected, _ = reference.extract_features(source, output_layer=layer)
        torch.testing.assert_close(states[layer], expected, rtol=1e-4, atol=1e-4)
    assert padding is None and len(states) == 5


def test_the_published_layer_0_is_what_the_positional_convolution_reads():
    hubert = make_hubert(ratios=[1.0] * 4)
    read = []
    hubert.encoder.pos_conv[0].register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    source = torch.randn(2, SAMPLES)  # with gradients, so that the module itself is called
    states, _ = hubert.layer_outputs(source, [SAMPLES] * 2, before_positions=True)
    ours, _ = hubert.layer_outputs(source, [SAMPLES] * 2)
    torch.testing.assert_close(states[0], read[0].transpose(1, 2))
    assert (states[0] - ours[0]).norm() > 0.1 * ours[0].norm()
    assert all(torch.equal(*pair) for pair in zip(states[1:], ours[1:]))


def test_layers_that_drop_frames_have_no_common_outputs():
    with pytest.raises(ValueError, match="they drop frames"):
        make_hubert().layer_outputs(torch.randn(1, SAMPLES), [SAMPLES])


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_model_drops_frames_where_it_has_attention(form):
    gated = make_gated(form)
    draw_gates(gated, 7, shift=2.0)
    close(gated, "attention_blocks", 2)
    small = cut_gates(gated)
    small.pruning = TokenPruning([1.0, 0.9, 0.7, 0.6])
    frames = small(torch.randn(1, SAMPLES), [SAMPLES], trace=True)
    assert [kept.shape[1] for kept in frames.trace] == [49, 45, 45, 27] == small.frame_counts(SAMPLES)[1:]


@pytest.mark.parametrize("form", FORMS)
def test_macs_of_a_cut_model_equal_torchs_own_count(form):
    flop_counter = pytest.importorskip("torch.utils.flop_counter", reason="torch 2.0 has no flop counter")
    gated = make_gated(form)
    draw_gates(gated, 8)
    small = cut_gates(gated)
    small.normalize = False  # the waveform, which is not the encoder's work
    # the counter knows torch's own products and the plain attention, not those for the CPU
    backend = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), torchs_own(), backend, flop_counter.FlopCounterMode(display=False) as counter:
        small(torch.randn(1, 32000), [32000])
    assert small.macs(32000)["total"] == counter.get_total_flops() // 2


@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_macs_of_wavlm_equal_torchs_own_count(ratio):
    """Their gates of relative positions are linear maps; the product with the positions is none."""
    flop_counter = pytest.importorskip("torch.utils.flop_counter", reason="torch 2.0 has no flop counter")
    shapes = HubertShapes([4, 1, 0, 2], [96, 7, 20, 0], 16, True, relative_buckets=32, relative_distance=64)
    wavlm = TokenPrunedHubert(
        HubertConfig(**SIZES), TokenPruning([1.0, ratio, 1.0, ratio]), shapes=shapes
    ).eval()
    backend = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), torchs_own(), backend, flop_counter.FlopCounterMode(display=False) as counter:
        wavlm(torch.randn(1, 32000), [32000])
    assert wavlm.macs(32000)["total"] == counter.get_total_flops() // 2


SHAPES = HubertShapes([1, 1], [1, 1], 8, True).to_dict()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"heads": [1, 1]}, "pruned is .* expected heads, units"),
        ({**SHAPES, "heads": [1]}, "heads has 1 layers, expected 2"),
        ({**SHAPES, "units": [1, -1]}, "expected a list of sizes"),
        ({**SHAPES, "head_dim": 0}, "head_dim is 0"),
        ({**SHAPES, "projection": 1}, "projection is 1"),
        ({**SHAPES, "relative_buckets": -4}, "relative_buckets is -4, expected 0 or a multiple of 4"),
        ({**SHAPES, "relative_buckets": 8, "relative_distance": 2}, "relative_distance is 2"),
    ],
)
def test_shapes_that_are_none_are_refused(fields, message):
    assert HubertShapes.from_dict(SHAPES, layers=2).to_dict() == SHAPES
    with pytest.raises(ValueError, match=message):
        HubertShapes.from_dict(fields, layers=2)


@pytest.mark.slow
def test_base_of_the_real_size_is_cut_to_the_published_size_with_equal_outputs():
    torch.manual_seed(0)
    gated = GatedHubert(HubertConfig(label_rate=50)).eval()
    gates = gates_of(gated)
    noise = {name: 2 * torch.randn_like(gate.log_alpha) for name, gate in gates.items()}
    low, high = -20.0, 20.0
    for _ in range(40):  # the shift of all gates at which a quarter of the parameters is expected to be left
        middle = (low + high) / 2
        for name, gate in gates.items():
            gate.log_alpha.data = noise[name] + (middle if "blocks" not in name else middle + 6)
        if gated.expected_parameters() < 0.25 * gated.dense_parameters():
            low = middle
        else:
            high = middle
    assert gated.dense_parameters() == 94_371_712
    small = cut_gates(gated)
    assert parameters_of(small) == pytest.approx(23.6e6, rel=0.02)
    for gate in gates.values():
        gate.log_alpha.data = torch.where(gate.evaluation_mask() > 0, 60.0, -60.0)
    expected = gated.expected_parameters().item()
    assert math.isclose(expected, parameters_of(cut_gates(gated)), rel_tol=1e-7)
    source = torch.randn(1, 2 * SAMPLES)
    draw_gates(gated, 1, shift=-1.0)
    with torch.no_grad():
        before, after = gated(source, [2 * SAMPLES]).x, cut_gates(gated)(source, [2 * SAMPLES]).x
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
