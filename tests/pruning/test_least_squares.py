"""Linear layers with fewer inputs, against torch's least squares and direct sums."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairseq_prune.pruning.layer_inputs import InputMoments
from fairseq_prune.pruning.least_squares import block_energy, refit_masked


def moments_of(x):
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    return ones.t() @ ones / len(x)


def layer_and_inputs(outputs, inputs, positions, seed):
    generator = torch.Generator().manual_seed(seed)
    weight, bias = (torch.randn(*shape, generator=generator) for shape in ((outputs, inputs), (outputs,)))
    mixing = torch.randn(inputs, inputs, generator=generator)
    x = torch.randn(positions, inputs, generator=generator) @ mixing + 0.5
    return weight, bias, x


@pytest.mark.parametrize("block", [1, 3])
def test_energies_are_mean_squares_of_what_blocks_add(block):
    weight, _, x = layer_and_inputs(4, 6, 30, 2)
    added = (x[:, None, :] * weight).view(30, 4, -1, block).sum(3)
    expected = added.square().mean(0).sum(0).double()
    torch.testing.assert_close(block_energy(weight, moments_of(x), block), expected, rtol=1e-4, atol=1e-4)


def test_moments_are_gathered_without_padding():
    layer, x = nn.Linear(3, 2), torch.randn(2, 4, 3)
    padding = torch.tensor([[False, False, True, True], [False] * 4])
    with InputMoments(layer, ["weight"]) as moments:
        moments.padding_mask = padding
        layer(x)
    torch.testing.assert_close(moments.values()["weight"], moments_of(x[~padding]), rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(2, 8), st.booleans(), st.integers(0, 99))
def test_under_a_mask_each_output_has_the_least_squares_of_its_own_inputs(outputs, inputs, with_bias, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(outputs, inputs, generator=generator) < 0.6
    weight, bias, x = layer_and_inputs(outputs, inputs, 80, seed)
    target = torch.randn(80, outputs, generator=generator) + x @ weight.t()
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    products = target.double().t() @ ones / len(x)
    given_bias = bias if with_bias else None
    found, offset = refit_masked(
        weight * mask, given_bias, moments_of(x), products, mask, ridge=0.0, steps=200
    )
    assert not found[~mask].any() and (offset is None) == (not with_bias)
    for i, kept in enumerate(mask):
        places = torch.cat([kept, torch.tensor([with_bias])])
        expected = torch.zeros(inputs + 1)
        if places.any():
            expected[places] = (
                torch.linalg.lstsq(ones[:, places], target[:, i : i + 1].double()).solution[:, 0].float()
            )
        torch.testing.assert_close(found[i], expected[:-1], rtol=1e-3, atol=1e-3)
        if with_bias:
            torch.testing.assert_close(offset[i], expected[-1], rtol=1e-3, atol=1e-3)


def test_a_ridge_under_a_mask_keeps_inputs_that_say_nothing():
    weight, bias, x = layer_and_inputs(3, 5, 40, 3)
    x[:, 4] = 0.0  # never heard
    mask = torch.ones(3, 5, dtype=torch.bool)
    products = (x @ weight.t()).double().t() @ torch.cat([x, torch.ones(len(x), 1)], 1).double() / len(x)
    found, _ = refit_masked(weight, bias, moments_of(x), products, mask)
    assert torch.equal(found[:, 4], weight[:, 4])
