"""Cut modules against the uncut ones whose closed channels are multiplied by zero."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairseq_prune.pruning.structured import cut_conv1d, cut_heads, cut_linear, cut_units

MASKS = st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=6, max_size=6).filter(any)


def kept(mask):
    mask = torch.tensor(mask)
    index = mask.nonzero().flatten()
    return mask, index, mask[index]


@settings(max_examples=20, deadline=None)
@given(MASKS, st.booleans())
def test_a_chain_of_convolutions_and_a_projection(values, bias):
    torch.manual_seed(0)
    mask, index, scale = kept(values)
    first, second, linear = nn.Conv1d(2, 6, 3, 2, bias=bias), nn.Conv1d(6, 6, 2, bias=bias), nn.Linear(6, 4)
    x = torch.randn(3, 2, 20)
    expected = linear((second(first(x) * mask[:, None]) * mask[:, None]).transpose(1, 2))
    first = cut_conv1d(first, outputs=index)
    second = cut_conv1d(second, outputs=index, inputs=index, scale=scale)
    linear = cut_linear(linear, inputs=index, scale=scale)
    found = linear(second(first(x)).transpose(1, 2))
    assert first.out_channels == second.in_channels == linear.in_features == len(index)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(MASKS)
def test_units_of_a_feed_forward_block(values):
    torch.manual_seed(0)
    mask, index, scale = kept(values)
    first, second = nn.Linear(4, 6), nn.Linear(6, 4)
    x = torch.randn(5, 4)
    expected = second(first(x).relu() * mask)
    first, second = cut_units(first, second, index, scale)
    torch.testing.assert_close(second(first(x).relu()), expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(MASKS)
def test_heads_of_an_attention(values):
    torch.manual_seed(0)
    mask, index, scale = kept(values)
    projections = [nn.Linear(12, 12) for _ in range(4)]
    x = torch.randn(2, 7, 12)

    def attend(query, key, value, out, mask):
        heads = [p(x).unflatten(2, (-1, 2)).transpose(1, 2) for p in (query, key, value)]
        y = nn.functional.scaled_dot_product_attention(*heads) * mask[:, None, None]
        return out(y.transpose(1, 2).flatten(2))

    expected = attend(*projections, mask)
    found = attend(*cut_heads(*projections, index, 2, scale), torch.ones(len(index)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_what_is_cut_shares_no_memory_with_what_it_was_cut_from():
    linear = nn.Linear(3, 2)
    small = cut_linear(linear, outputs=torch.tensor([0, 1]))
    linear.weight.data.zero_(), linear.bias.data.zero_()
    assert small.weight.any() and small.bias.any()


def test_a_convolution_with_groups_is_refused():
    with pytest.raises(ValueError, match="found 2 groups, expected 1"):
        cut_conv1d(nn.Conv1d(4, 4, 3, groups=2), outputs=torch.tensor([0]))
