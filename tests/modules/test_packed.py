"""Linear layers for few rows, against torch's."""

import pytest
import torch
from hubert_models import FORMS, SAMPLES, in_a_batch, make_hubert
from torch import nn
from torch.nn import functional as F

from fairseq_prune.compat import HAS_HALF_PRODUCTS, HAS_ONEDNN_PRODUCTS
from fairseq_prune.modules import onednn
from fairseq_prune.modules.packed import (
    MANY_OUTPUTS,
    HalfLinear,
    PackedLinear,
    is_held_in_half,
    packed,
    side_by_side,
)

halves = pytest.mark.skipif(not HAS_HALF_PRODUCTS, reason="this processor has no products by 16 bits")


def in_half(layer):
    """The layer with a weight that 16 bits hold."""
    layer.weight.data = layer.weight.data.half().float()
    return layer


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_packed_layer_gives_what_torchs_gives(rows, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 70, bias), torch.randn(2, rows, 48)
    fast = packed(layer)
    assert isinstance(fast, PackedLinear) is HAS_ONEDNN_PRODUCTS
    torch.testing.assert_close(fast(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [F.gelu, F.relu, None])
@torch.inference_mode()
def test_what_follows_a_packed_layer_is_computed_once(activation):
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 70), torch.randn(2, 5, 48)
    expected = layer(x) if activation is None else activation(layer(x))
    torch.testing.assert_close(onednn.linear(packed(layer), x, activation), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_an_encoder_that_was_made_fast_keeps_its_output(form):
    hubert, batch = make_hubert(form), in_a_batch(torch.randn(SAMPLES))
    before = hubert(*batch)
    hubert.make_generation_fast_()
    kinds = {type(module) for module in hubert.encoder.layers.modules()}
    assert (PackedLinear in kinds) is (nn.Linear not in kinds) is HAS_ONEDNN_PRODUCTS
    after = hubert(*batch)
    assert torch.equal(after.positions, before.positions)
    torch.testing.assert_close(after.x, before.x, rtol=1e-4, atol=1e-4)


@halves
@pytest.mark.parametrize("rows", [0, 1, 5, 40, 100])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "size", [1e-7, 1.0, 1e4]
)  # numbers that 16 bits hold with fewer digits, usual ones, large ones
@torch.inference_mode()
def test_a_weight_that_16_bits_hold_is_kept_in_them(rows, bias, size):
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 70, bias), torch.randn(2, rows, 48)
    layer.weight.data *= size / layer.weight.data.abs().max()
    fast = packed(in_half(layer))
    assert isinstance(fast, HalfLinear)
    torch.testing.assert_close(fast(x), layer(x), rtol=1e-5, atol=1e-5 * size)


@halves
@pytest.mark.parametrize("rows", [1, 32, 33])
@torch.inference_mode()
def test_a_vocabulary_of_16_bits_takes_32_for_many_rows_where_that_is_faster(rows, monkeypatch):
    torch.manual_seed(0)
    layer, x = in_half(nn.Linear(24, MANY_OUTPUTS, bias=False)), torch.randn(rows, 24)
    for processor in ("AVX2", "AVX512"):
        monkeypatch.setattr(
            "fairseq_prune.modules.packed.instructions", lambda processor=processor: processor
        )
        fast = packed(layer)
        torch.testing.assert_close(fast(x), layer(x), rtol=1e-5, atol=1e-5)
        from_single = HAS_ONEDNN_PRODUCTS and processor == "AVX512" and rows > 32
        assert isinstance(fast.of_many_rows, PackedLinear) is from_single


@pytest.mark.parametrize("number", [0.1, 1e-9, 70_000.0, float("nan")])
@torch.inference_mode()
def test_a_weight_that_16_bits_do_not_hold_is_not(number):
    layer = in_half(nn.Linear(8, 4))
    assert is_held_in_half(layer.weight)
    layer.weight.data[3, 5] = number
    assert not is_held_in_half(layer.weight)
    assert not isinstance(packed(layer), HalfLinear)


@torch.inference_mode()
def test_layers_side_by_side_are_one_product():
    torch.manual_seed(0)
    layers, x = [nn.Linear(16, 5), nn.Linear(16, 7, bias=False), nn.Linear(16, 6)], torch.randn(3, 16)
    together = side_by_side(layers)(x)
    torch.testing.assert_close(together, torch.cat([layer(x) for layer in layers], 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(packed(*layers)(x), together, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_8_bits_are_near():
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.randn(3, 64)
    found, expected = packed(layer, int8=True)(x), layer(x)
    assert 0 < (found - expected).norm() < 0.02 * expected.norm()


def test_what_is_chosen_is_followed():
    with onednn.torchs_own():
        assert type(packed(nn.Linear(4, 4))) is nn.Linear
        assert type(packed(in_half(nn.Linear(4, 4)))) is nn.Linear


@pytest.mark.skipif(not HAS_ONEDNN_PRODUCTS, reason="torch 2.0 packs nothing")
def test_a_packed_layer_refuses_another_type():
    with pytest.raises(RuntimeError, match="convert the model before it is packed"):
        packed(nn.Linear(4, 4)).half()


@halves
def test_a_layer_of_16_bits_refuses_another_type():
    with pytest.raises(RuntimeError, match="convert the model before it is packed"):
        packed(in_half(nn.Linear(4, 4))).bfloat16()
