"""Scores of weights: Wanda's masks against a restatement in numpy, norms of inputs, gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairseq_prune.pruning.layer_inputs import InputNorms
from fairseq_prune.pruning.magnitude import magnitude_masks
from fairseq_prune.pruning.scores import random_scores, taylor_scores, wanda_scores


def two_layers(inputs=5, inner=7, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, inner), nn.GELU(), nn.Linear(inner, 3))


def wanda_restated(weight, inputs, sparsity):
    """As in the paper: in each row of |W| * ||X||_2 the smallest go; inputs (positions, inputs)."""
    metric = np.abs(weight) * np.sqrt((inputs.astype(np.float64) ** 2).sum(0))
    mask = np.ones(weight.shape, dtype=bool)
    for row, values in zip(mask, metric):
        row[np.argsort(values, kind="stable")[: round(sparsity * len(values))]] = False
    return mask


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 30),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.77, 0.9]),
    st.integers(0, 999),
)
def test_wandas_masks_are_those_of_a_restatement(outputs, inputs, positions, sparsity, seed):
    random = np.random.default_rng(seed)
    layer = nn.Linear(inputs, outputs)
    layer.weight.data = torch.from_numpy(random.standard_normal((outputs, inputs)).astype(np.float32))
    x = random.standard_normal((positions, inputs)) * random.exponential(size=inputs)
    x = x.astype(np.float32)
    with InputNorms(layer, ["weight"]) as norms:
        layer(torch.from_numpy(x)[None])
    weights = {"weight": layer.weight}
    masks = magnitude_masks(wanda_scores(weights, norms.values()), sparsity, "row")
    assert np.array_equal(masks["weight"].numpy(), wanda_restated(layer.weight.detach().numpy(), x, sparsity))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 99),
)
def test_every_row_has_the_sparsity_exactly(shape, sparsity, seed):
    scores = random_scores({"a": torch.empty(*shape)}, seed)
    mask = magnitude_masks(scores, sparsity, "row")["a"]
    rows = mask.view(len(mask) if mask.dim() > 1 else 1, -1)
    assert mask.shape == scores["a"].shape
    assert ((~rows).sum(1) == round(sparsity * rows.size(1))).all()


def test_of_a_row_with_equal_scores_the_first_go():
    mask = magnitude_masks({"a": torch.tensor([[1.0, 1, 1, 1], [2, 1, 1, 2]])}, 0.5, "row")["a"]
    assert mask.tolist() == [[False, False, True, True], [True, False, False, True]]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=11, max_size=11), st.integers(0, 99))
def test_norms_do_not_depend_on_the_batches(part_of, seed):
    model = two_layers(seed=seed)
    names = ["0.weight", "2.weight"]
    x = torch.randn(11, 4, 5, generator=torch.Generator().manual_seed(seed))
    with InputNorms(model, names) as whole:
        model(x)
    with InputNorms(model, names) as parts:
        for part in range(3):
            rows = x[torch.tensor(part_of) == part]
            if len(rows):
                model(rows)
    for name, norm in whole.values().items():
        torch.testing.assert_close(parts.values()[name], norm)
    torch.testing.assert_close(whole.values()["0.weight"], x.square().mean((0, 1)).sqrt())


def test_padding_is_not_counted():
    model = two_layers()
    short, long = torch.randn(2, 5), torch.randn(6, 5)
    batch = torch.full((2, 6, 5), 1e6)
    batch[0, :2], batch[1] = short, long
    with InputNorms(model, ["0.weight", "2.weight"]) as padded:
        padded.padding_mask = torch.arange(6) >= torch.tensor([[2], [6]])
        model(batch)
    with InputNorms(model, ["0.weight", "2.weight"]) as alone:
        model(short[None])
        model(long[None])
    for name, norm in alone.values().items():
        torch.testing.assert_close(padded.values()[name], norm)


def test_hooks_are_gone_afterwards_and_a_layer_that_was_not_called_is_named():
    model = two_layers()
    with InputNorms(model, ["0.weight"]) as norms:
        pass
    assert not model[0]._forward_pre_hooks
    with pytest.raises(ValueError, match=r"0\.weight: its layer saw no input"):
        norms.values()


@pytest.mark.parametrize("squared", [False, True])
def test_taylor_is_the_change_of_a_loss_that_is_linear_in_the_weights(squared):
    layer = nn.Linear(4, 3, bias=False)
    x = torch.randn(6, 4)

    def losses():
        yield from (layer(row).sum() for row in x)

    weights = {"weight": layer.weight}
    score = taylor_scores(weights, losses(), squared)["weight"]
    expected = torch.zeros(3, 4)
    with torch.no_grad():
        for row in x:
            for i in range(3):
                for j in range(4):
                    without = layer.weight.clone()
                    without[i, j] = 0
                    change = (row @ without.t()).sum() - (row @ layer.weight.t()).sum()
                    expected[i, j] += change**2 if squared else change.abs()
    torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-5)
    assert layer.weight.grad is None
    assert not score.requires_grad


def test_the_change_without_blocks_of_columns():
    layer = nn.Linear(6, 3, bias=False)
    x = torch.randn(5, 6)
    found = taylor_scores({"w": layer.weight}, (layer(row).sum() for row in x), block={"w": 2})["w"]
    outputs = (x[:, None, :] * layer.weight.detach()).view(5, 3, 3, 2)  # (rows, outputs, blocks, block)
    torch.testing.assert_close(found, outputs.sum((1, 3)).abs().sum(0))


def test_random_scores_follow_the_seed():
    weights = {"a": torch.empty(3, 4), "b": torch.empty(5)}
    first, again, other = (random_scores(weights, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in weights)
    assert not torch.equal(first["a"], other["a"])
