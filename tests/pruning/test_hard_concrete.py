"""Gates against the closed form of the paper, Monte Carlo, and a loop that follows its text."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairseq_prune.pruning.hard_concrete import HardConcrete

LOG_ALPHAS = st.lists(st.floats(-12, 12, width=32), min_size=1, max_size=40)


def gate_of(log_alphas, **options):
    gate = HardConcrete(len(log_alphas), **options)
    gate.log_alpha.data = torch.tensor(log_alphas)
    return gate


@settings(max_examples=30, deadline=None)
@given(LOG_ALPHAS)
def test_expected_open_gates_are_the_closed_form_of_the_paper(log_alphas):
    beta, gamma, zeta = 2 / 3, -0.1, 1.1
    expected = sum(1 / (1 + math.exp(-(a - beta * math.log(-gamma / zeta)))) for a in log_alphas)
    assert gate_of(log_alphas).expected_open().item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(LOG_ALPHAS)
def test_probability_that_any_is_open_is_that_not_all_are_closed(log_alphas):
    gate = gate_of(log_alphas)
    expected = 1 - math.prod(1 - p for p in gate.open_probability().double().tolist())
    assert gate.any_open_probability().item() == pytest.approx(expected, abs=1e-6)


def test_drawn_gates_are_open_as_often_as_expected():
    torch.manual_seed(0)
    gate = gate_of([-4.0, -1.5, 0.0, 2.0] * 20000)
    draws = gate.draw().detach().view(-1, 4)
    assert draws.min() == 0 and draws.max() == 1
    share = (draws > 0).float().mean(0)
    torch.testing.assert_close(share, gate.open_probability()[:4].detach(), atol=0.015, rtol=0)


def test_drawn_gates_have_the_distribution_of_the_binary_concrete():
    """Below 1 and above 0 the stretched value's distribution function is known (equation 11 of the paper)."""
    torch.manual_seed(0)
    draws = gate_of([0.7] * 20000).draw().detach()
    for value in (0.1, 0.5, 0.9):
        concrete = (value + 0.1) / 1.2
        below = 1 / (1 + math.exp(-(2 / 3 * math.log(concrete / (1 - concrete)) - 0.7)))
        assert (draws < value).float().mean().item() == pytest.approx(below, abs=0.015)


def published_mask(log_alpha, open_probability):
    """As many zeros as expected, rounded, the smallest gates first; sigmoid(0.8 log_alpha / temperature) else."""
    mask = [1 / (1 + math.exp(-0.8 * a / (2 / 3))) for a in log_alpha]
    zeros = round(len(mask) - sum(open_probability))
    for index in sorted(range(len(mask)), key=lambda i: log_alpha[i])[:zeros]:
        mask[index] = 0.0
    return torch.tensor(mask)


@settings(max_examples=50, deadline=None)
@given(LOG_ALPHAS)
def test_evaluation_mask_is_that_of_the_published_method(log_alphas):
    gate = gate_of(log_alphas)
    closed = len(log_alphas) - gate.expected_open().item()
    if abs(closed % 1 - 0.5) < 1e-4:  # rounding of sums decides
        return
    expected = published_mask(log_alphas, gate.open_probability().tolist())
    torch.testing.assert_close(gate.evaluation_mask().detach(), expected, atol=1e-6, rtol=1e-4)


def test_gates_begin_at_their_drop_probability():
    torch.manual_seed(0)
    gate = HardConcrete(1000, initial_drop=0.01)
    assert torch.sigmoid(gate.log_alpha).mean().item() == pytest.approx(0.99, abs=1e-3)
    assert gate.log_alpha.std().item() == pytest.approx(0.01, rel=0.1)


def test_both_masks_and_the_count_have_gradients():
    for mode in (True, False):
        gate = gate_of([0.0, 0.3, -0.2]).train(mode)
        torch.manual_seed(2)
        (gate.draw().sum() + gate.expected_open()).backward()
        assert gate.log_alpha.grad.abs().min() > 0


def test_gates_stay_in_float32_whatever_the_model_becomes():
    gate = gate_of([20.0, 1e-4])
    model = nn.Sequential(gate, nn.Linear(2, 2)).half()
    assert model[1].weight.dtype == torch.float16 and gate.log_alpha.dtype == torch.float32
    assert gate.log_alpha[1].item() == pytest.approx(1e-4, rel=1e-6)  # it never was in half precision
    model.bfloat16().double()
    assert gate.log_alpha.dtype == torch.float32 and gate.draw().isfinite().all()
    assert model.to("meta")[0].log_alpha.device.type == "meta"


def test_the_evaluation_mask_follows_loaded_gates():
    gate = gate_of([5.0, -5.0])
    before = gate.evaluation_mask()
    gate.load_state_dict({"log_alpha": torch.tensor([-5.0, 5.0])})
    assert torch.equal(gate.evaluation_mask(), before.flip(0)) and (before > 0).tolist() == [True, False]


@pytest.mark.parametrize("drop", [0.0, 1.0, -0.1])
def test_a_drop_probability_that_is_none_is_refused(drop):
    with pytest.raises(ValueError, match=f"initial drop of a gate: found {drop}"):
        HardConcrete(3, initial_drop=drop)
