"""The encoder on oneDNN's products (inference on the CPU) against the same encoder on torch's own functions."""

import pytest
import torch
from hubert_models import FORMS, SAMPLES, in_a_batch, make_hubert, reference_of
from torch import nn

from fairseq_prune.compat import HAS_ONEDNN_PRODUCTS
from fairseq_prune.modules import onednn
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
