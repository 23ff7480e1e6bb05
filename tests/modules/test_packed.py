"""Linear layers for few rows, against torch's."""

import pytest
import torch
from torch import nn

from fairseq_prune.compat import HAS_ONEDNN_PRODUCTS
from fairseq_prune.modules import onednn
from fairseq_prune.modules.packed import PackedLinear, packed, side_by_side


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_a_packed_layer_gives_what_torchs_gives(rows, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 70, bias), torch.randn(2, rows, 48)
    fast = packed(layer)
    assert isinstance(fast, PackedLinear) is HAS_ONEDNN_PRODUCTS
    torch.testing.assert_close(fast(x), layer(x), rtol=1e-4, atol=1e-5)


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


@pytest.mark.skipif(not HAS_ONEDNN_PRODUCTS, reason="torch 2.0 packs nothing")
def test_a_packed_layer_refuses_another_type():
    with pytest.raises(RuntimeError, match="convert the model before it is packed"):
        packed(nn.Linear(4, 4)).half()
