"""Schedules under a budget, against a search of all of them."""

import itertools

import pytest
import torch

from fairseq_prune.pruning.planning import cheapest_shares, kept_attention, plan_keep_ratios

SHARES = torch.linspace(0.25, 1.0, 4, dtype=torch.float64)


def problem(seed):
    """Losses that fall, and costs that rise, with the frames that go on: (3 layers, 4 shares)."""
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(3, 4, dtype=torch.float64, generator=generator).sort(dim=1, descending=True).values
    costs = SHARES.unsqueeze(1) + 0.5 * SHARES.unsqueeze(0)
    return losses, costs.expand(3, 4, 4)


def paths(least_ratio):
    for path in itertools.product(range(4), repeat=3):
        steps = list(zip((3, *path), path))
        if all(after <= before and SHARES[after] / SHARES[before] >= least_ratio for before, after in steps):
            yield path, steps


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("price", [0.0, 0.3, 3.0])
def test_the_path_is_the_best_of_all(seed, price):
    losses, costs = problem(seed)

    def value(steps):
        return sum(
            losses[i, after] + price * costs[i, before, after] for i, (before, after) in enumerate(steps)
        )

    found = cheapest_shares(losses, costs, price, 0.5, SHARES)
    best = min(value(steps) for _, steps in paths(0.5))
    steps = dict(paths(0.5))[tuple(found)]
    assert float(value(steps)) == pytest.approx(float(best))


@pytest.mark.parametrize("budget", [2.3, 3.0, 4.4])
def test_a_plan_keeps_its_budget(budget):
    losses, costs = problem(0)

    def cost_of(ratios):
        kept = [1.0]
        for ratio in ratios:
            kept.append(kept[-1] * ratio)
        return sum(before + 0.5 * after for before, after in zip(kept, kept[1:]))

    ratios = plan_keep_ratios(losses, costs, SHARES, cost_of, budget)
    assert cost_of(ratios) <= budget + 1e-3 and min(ratios) >= 0.5
    assert plan_keep_ratios(losses, costs, SHARES, cost_of, 4.5) == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="cannot be met: the least possible is"):
        plan_keep_ratios(losses, costs, SHARES, cost_of, 1.0)


def test_kept_attention_by_hand():
    chosen_by, received = torch.tensor([3.0, 1.0, 2.0, 4.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    found = kept_attention(chosen_by, received, torch.tensor([0.01, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(found, torch.tensor([0.4, 0.5, 0.8, 1.0], dtype=torch.float64))
