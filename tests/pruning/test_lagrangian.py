"""The size constraint: its values, its gradients, and the constrained minimum that descent and ascent find."""

import pytest
import torch

from fairseq_prune.pruning.lagrangian import Multipliers, lagrangian, warmed_up_target


def test_the_term_is_that_of_the_paper():
    term = lagrangian(torch.tensor(0.5), 0.75, torch.tensor([2.0, 3.0]))
    assert term.item() == pytest.approx(2 * -0.25 + 3 * 0.0625)


def test_the_multipliers_ascend_what_the_sparsity_descends():
    multipliers, sparsity = Multipliers(), torch.tensor(0.5, requires_grad=True)
    multipliers.values.data = torch.tensor([2.0, 3.0])
    lagrangian(sparsity, 0.75, multipliers()).backward()
    assert multipliers().tolist() == [2.0, 3.0]
    assert multipliers.values.grad.tolist() == pytest.approx([0.25, -0.0625])  # minus the derivatives
    assert sparsity.grad.item() == pytest.approx(2 + 2 * 3 * -0.25)


def test_a_constrained_minimum_is_found():
    """The least x^2 + 4 y^2 with x + y = 1 is at x = 0.8, y = 0.2."""
    x = torch.nn.Parameter(torch.zeros(2))
    multipliers = Multipliers()
    optimizer = torch.optim.Adam([x, *multipliers.parameters()], lr=0.02)
    for _ in range(2000):
        optimizer.zero_grad()
        (x[0] ** 2 + 4 * x[1] ** 2 + lagrangian(x.sum(), 1.0, multipliers())).backward()
        optimizer.step()
    assert x.tolist() == pytest.approx([0.8, 0.2], abs=0.01)


def test_the_multipliers_stay_in_float32():
    multipliers = Multipliers()
    multipliers.values.data = torch.tensor([0.1234567, 1e-9])
    assert multipliers.half().values.dtype == torch.float32
    assert multipliers.values.tolist() == pytest.approx([0.1234567, 1e-9], rel=1e-6)


def test_the_target_rises_linearly_and_stays():
    assert [warmed_up_target(0.6, update, 4) for update in range(6)] == pytest.approx(
        [0, 0.15, 0.3, 0.45, 0.6, 0.6]
    )
    assert warmed_up_target(0.6, 0, 0) == 0.6
