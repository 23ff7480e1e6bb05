"""The encoder on oneDNN's products (inference on the CPU) against the same encoder on torch's own functions."""

from dataclasses import replace

import pytest
import torch
from hubert_models import FORMS, SAMPLES, in_a_batch, make_hubert, reference_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fairseq_prune.compat import HAS_ONEDNN_PRODUCTS
from fairseq_prune.modules import onednn
from fairseq_prune.modules.gated_layers import GatedConv1d, GatedLinear
from fairseq_prune.modules.hubert import extractor
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.hubert.gated import GatedHubert
from fairseq_prune.modules.onednn import Kernels
from fairseq_prune.pruning.attention import attention_and_received
from fairseq_prune.pruning.criteria import CRITERIA

pytestmark = pytest.mark.skipif(
    not HAS_ONEDNN_PRODUCTS, reason="this torch has no oneDNN, or torch 2.0's without plain products"
)


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch):
    """So that a second of audio is more than one stretch of the extractor and one block of queries."""
    monkeypatch.setattr("fairseq_prune.modules.hubert.extractor.STRETCH", 20)
    monkeypatch.setattr(onednn, "QUERY_BLOCK", 16)


# as usual, and all that a measurement may choose
KERNELS = {
    "usual": Kernels(attention=((0, "torch"), (16, "by_head")), scored=((0, "at_once"), (16, "by_head"))),
    "torch": Kernels("torch", "torch", ((0, "torch"),), ((0, "torch"),)),
    "mixed": Kernels("onednn", "torch", ((0, "torch"),), ((0, "at_once"),)),
    "by head": Kernels("torch", "onednn", ((0, "by_head"),), ((0, "by_head"),)),
}


@pytest.fixture(params=KERNELS.values(), ids=KERNELS)
def kernels(request):
    return request.param


@pytest.fixture(autouse=True)
def usual_kernels():
    with onednn.using(KERNELS["usual"]):
        yield


def both(hubert, *inputs, kernels=KERNELS["usual"]):
    with torch.inference_mode():
        with onednn.using(kernels):
            fast = hubert(*inputs)
        with onednn.torchs_own():
            slow = hubert(*inputs)
    return fast, slow


@pytest.mark.parametrize("form", FORMS)
def test_without_pruning_it_equals_fairseq(form, kernels):
    hubert = make_hubert(form, ratios=[1.0] * 4)
    waveform = torch.randn(2, SAMPLES) + 3.0  # far from zero mean
    with torch.inference_mode(), onednn.using(kernels):
        expected, _ = reference_of(hubert, form).extract_features(waveform)
        torch.testing.assert_close(hubert(waveform, [SAMPLES] * 2).x, expected, rtol=1e-4, atol=1e-4)


def test_factors_of_channels_as_published_dphubert_has_them_are_computed_as_fast():
    hubert = make_hubert()
    scaled = TokenPrunedHubert(hubert.cfg, shapes=replace(hubert.shapes, channel_scale=True)).eval()
    scaled.feature_extractor.conv_layers[-1].scale.weight.data.uniform_(0.5, 2)
    assert extractor.is_plain(scaled.feature_extractor.conv_layers)
    fast, slow = both(scaled, *in_a_batch(torch.randn(SAMPLES)))
    torch.testing.assert_close(
        fast.x[1, : fast.lengths[1]], slow.x[1, : slow.lengths[1]], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("pad_invariant", [True, False])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("form", FORMS)
def test_the_same_frames_are_kept_and_the_output_is_the_same_in_a_padded_batch(
    form, criterion, pad_invariant, kernels
):
    hubert = make_hubert(form, criterion, normalize=form == "large", pad_invariant=pad_invariant)
    fast, slow = both(hubert, *in_a_batch(torch.randn(SAMPLES), (20000, 700, 12000)), kernels=kernels)
    assert fast.lengths == slow.lengths and torch.equal(fast.positions, slow.positions)
    for row, length in enumerate(fast.lengths):
        torch.testing.assert_close(fast.x[row, :length], slow.x[row, :length], rtol=1e-4, atol=1e-4)


def test_an_utterance_is_the_same_alone_and_in_a_batch():
    hubert = make_hubert()
    waveform = torch.randn(SAMPLES)
    with torch.inference_mode():
        alone, batch = hubert(waveform.unsqueeze(0), [SAMPLES]), hubert(*in_a_batch(waveform))
    kept = alone.lengths[0]
    assert torch.equal(batch.positions[1, :kept], alone.positions[0])
    torch.testing.assert_close(batch.x[1, :kept], alone.x[0], rtol=1e-4, atol=1e-4)


def test_weights_may_change_between_passes_and_be_folded():
    hubert = make_hubert()
    waveform = torch.randn(1, SAMPLES)
    before, _ = both(hubert, waveform, [SAMPLES])
    with torch.no_grad():
        for parameter in hubert.parameters():
            parameter.mul_(1.1)
    after, expected = both(hubert, waveform, [SAMPLES])
    assert not torch.allclose(before.x, after.x)
    torch.testing.assert_close(after.x, expected.x, rtol=1e-4, atol=1e-4)
    hubert.make_generation_fast_()
    assert not hasattr(hubert.encoder.pos_conv[0], "weight_g")
    folded, _ = both(hubert, waveform, [SAMPLES])
    torch.testing.assert_close(folded.x, expected.x, rtol=1e-4, atol=1e-4)


def test_digital_silence_is_finite():
    fast, slow = both(make_hubert(), torch.zeros(1, SAMPLES), [SAMPLES])
    torch.testing.assert_close(fast.x, slow.x, rtol=1e-3, atol=1e-3)


def test_bfloat16_stays_as_near_to_float32_as_torchs_own():
    hubert = make_hubert(criterion="uniform")
    batch = in_a_batch(torch.randn(SAMPLES))
    exact, _ = both(hubert, *batch)
    fast, slow = both(hubert.bfloat16(), *batch)
    assert fast.x.dtype == torch.bfloat16

    def distance(frames):
        return (frames.x.float() - exact.x).norm() / exact.x.norm()

    assert distance(fast) < 1.5 * distance(slow) < 0.075


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("way", ["torch", "by_head", "at_once"])
@pytest.mark.parametrize("lengths", [[40, 40], [40, 23]])
def test_attention_and_its_scores_equal_the_reference(lengths, way, scored):
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 40, 3, 8) for _ in range(3))
    padding = torch.arange(40) >= torch.tensor(lengths)[:, None]
    by_head = [states.transpose(1, 2) for states in (query, key, value)]
    sizes = torch.rand(2, 40) + 1
    kernels = Kernels(attention=((0, way),), scored=((0, way),))
    with torch.inference_mode(), onednn.using(kernels):
        out, received = onednn.attention(query, key, value, lengths, sizes, scored)
        expected, expected_received = attention_and_received(*by_head, padding_mask=padding, sizes=sizes)
    if scored:
        torch.testing.assert_close(received, expected_received)
    else:
        assert received is None
    expected = expected.transpose(1, 2).flatten(2).masked_fill(padding.unsqueeze(2), 0)
    torch.testing.assert_close(out.masked_fill(padding.unsqueeze(2), 0), expected)


def changed(layer):
    """A linear layer whose call does more than its weights say."""
    layer.register_forward_hook(lambda module, args, output: output + 1)
    return layer


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    "make", [nn.Linear, lambda *sizes: changed(nn.Linear(*sizes))], ids=["plain", "hook"]
)
def test_a_linear_layer_does_what_its_call_does(make, gradients):
    layer, x = make(5, 7), torch.randn(2, 3, 5)
    with torch.set_grad_enabled(gradients):
        found = onednn.linear(layer, x, torch.nn.functional.gelu)
        torch.testing.assert_close(found, torch.nn.functional.gelu(layer(x)))
    assert found.requires_grad == gradients


def test_autocast_chooses_the_precision():
    layer, x = nn.Linear(5, 7), torch.randn(3, 5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert onednn.linear(layer, x).dtype == torch.bfloat16


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
def test_in_training_a_linear_layer_has_torchs_output_and_gradients(shape, bias):
    torch.manual_seed(0)
    layer, found = nn.Linear(5, 7, bias), {}
    x = torch.randn(shape)
    for name, kernels in (("onednn", KERNELS["usual"]), ("torch", None)):
        given = x.clone().requires_grad_()
        layer.zero_grad()
        with onednn.using(kernels):
            assert onednn.trains(given) == (name == "onednn")
            out = onednn.linear(layer, given, torch.nn.functional.gelu)
        out.square().sum().backward()
        found[name] = [out, given.grad, *(parameter.grad for parameter in layer.parameters())]
    torch.testing.assert_close(found["onednn"], found["torch"])


def test_what_is_frozen_gets_no_gradient():
    layer = nn.Linear(5, 7).requires_grad_(False)
    x = torch.randn(3, 5, requires_grad=True)
    onednn.linear(layer, x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 5))
    layer.requires_grad_(True)
    onednn.linear(layer, x.detach()).sum().backward()
    assert layer.bias.grad.tolist() == [3.0] * 7


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(1, 1), (3, 1), (3, 2), (2, 2), (10, 5), (5, 3), (40, 1), (64, 1), (2, 3)]),
    st.integers(0, 20),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 3),
    st.integers(0, 30),
    st.booleans(),
)
def test_in_training_a_convolution_has_torchs_output_and_gradients(sizes, padding, groups, batch, more, bias):
    (kernel, stride), steps = sizes, sizes[0] + more
    generator = torch.Generator().manual_seed(more)
    x = torch.randn(batch, steps, 8, generator=generator)
    weight = torch.randn(12, 8 // groups, kernel, generator=generator)
    offset = torch.randn(12, generator=generator) if bias else None
    found = []
    for convolve in (
        lambda x, *parameters: onednn.convolution(x, *parameters, stride, padding, groups, with_gelu=True),
        lambda x, *parameters: F.gelu(
            F.conv1d(x.transpose(1, 2), *parameters, stride, padding, 1, groups)
        ).transpose(1, 2),
    ):
        leaves = [None if t is None else t.clone().requires_grad_() for t in (x, weight, offset)]
        assert onednn.convolves(leaves[0])
        out = convolve(*leaves)
        out.square().sum().backward()
        found.append([out, *(leaf.grad for leaf in leaves if leaf is not None)])
    for ours, theirs in zip(*found):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm() + 1e-6


@pytest.mark.parametrize("rows", [2, 50])  # fewer numbers than the weight has, and more
def test_gates_of_inputs_have_the_same_output_and_gradients_on_frames_and_on_weights(rows):
    torch.manual_seed(0)
    layer = GatedLinear(nn.Linear(6, 5))
    x, layer.mask = torch.randn(rows, 6, requires_grad=True), torch.rand(6, requires_grad=True)
    leaves = [x, layer.mask, layer.weight, layer.bias]
    ours, theirs = layer(x), F.linear(x * layer.mask, layer.weight, layer.bias)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(out.square().sum(), leaves) for out in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_gates_are_trained_with_the_gradients_of_torchs_own_functions(form, recomputed):
    hubert = make_hubert(form, ratios=[1.0] * 4)
    torch.manual_seed(0)
    gated = GatedHubert(hubert.cfg, normalize=form == "large").train()
    gated.checkpoint_activations = recomputed
    gated.load_state_dict({**gated.state_dict(), **hubert.state_dict()})
    assert isinstance(gated.feature_extractor.conv_layers[1][0], GatedConv1d)
    batch, found = in_a_batch(torch.randn(SAMPLES)), []
    for kernels in (KERNELS["usual"], None):
        gated.zero_grad()
        torch.manual_seed(0)
        with onednn.using(kernels):
            states, padding = gated.layer_outputs(*batch)
            loss = (
                sum(state[~padding].square().mean() for state in states) + gated.expected_parameters() / 1e6
            )
            loss.backward()
        found.append((loss, {name: p.grad for name, p in gated.named_parameters() if p.grad is not None}))
    torch.testing.assert_close(*(loss for loss, _ in found))
    (_, ours), (_, theirs) = found
    assert ours.keys() == theirs.keys() and any(name.startswith("gates.conv_channels") for name in ours)
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("form", FORMS)
def test_losses_and_gradients_of_training_are_those_of_torchs_own_functions(form):
    hubert = make_hubert(form).train()
    batch, found = in_a_batch(torch.randn(SAMPLES)), []
    for kernels in (KERNELS["usual"], None):
        hubert.zero_grad()
        torch.manual_seed(0)
        with onednn.using(kernels):
            loss = hubert(*batch).x.square().mean()
            loss.backward()
        found.append((loss, [p.grad for p in hubert.parameters() if p.grad is not None]))
    torch.testing.assert_close(*(loss for loss, _ in found))
    assert len(found[0][1]) == len(found[1][1]) > 50
    for ours, theirs in zip(found[0][1], found[1][1]):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm() + 1e-7
