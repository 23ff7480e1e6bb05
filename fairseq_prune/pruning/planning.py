"""Keep ratios by layer that meet a budget with the least loss of attention.

What is lost is measured on the model without pruning: the share of a layer's attention that goes to frames which an
earlier layer would have dropped. Once that is known for each layer and share of frames, the schedule is a shortest
path: from layer to layer the share of frames falls, each step has a loss and a cost, and a price of cost (a Lagrange
multiplier) is raised until the path is cheap enough.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def kept_attention(chosen_by: Tensor, received: Tensor, shares: Tensor) -> Tensor:
    """The share of attention that stays when only the best frames do.

    Args:
        chosen_by: (frames,), importances that choose the frames.
        received: (frames,), attention that these receive in a later layer.
        shares: (shares,) of the frames that stay.

    Returns:
        (shares,) of the sum of ``received``.
    """
    ordered = received[chosen_by.argsort(descending=True, stable=True)].double()
    kept = (shares.double() * len(ordered) - 1e-6).ceil().long().clamp(min=1)
    return ordered.cumsum(0)[kept - 1] / ordered.sum()


def cheapest_shares(
    losses: Tensor, costs: Tensor, price: float, least_ratio: float, shares: Tensor
) -> list[int]:
    """The path of least loss + price * cost over the shares of frames that leave each layer.

    Args:
        losses: (layers, shares), of leaving a layer with such a share.
        costs: (layers, shares before, shares after).
        price: of cost.
        least_ratio: share of its own frames that a layer keeps at least.
        shares: (shares,), rising to 1, with which all frames enter the first layer.

    Returns:
        index of the share that leaves each layer.
    """
    step = losses.unsqueeze(1) + price * costs
    ratio = shares.unsqueeze(0) / shares.unsqueeze(1)
    step = step.masked_fill((ratio > 1) | (ratio < least_ratio - 1e-9), torch.inf)
    total = torch.full((len(shares),), torch.inf, dtype=step.dtype)
    total[-1] = 0.0
    came_from = []
    for layer in step:
        total, before = (total.unsqueeze(1) + layer).min(0)
        came_from.append(before)
    path = [int(total.argmin())]
    for before in reversed(came_from[1:]):
        path.append(int(before[path[-1]]))
    return path[::-1]


def plan_keep_ratios(
    losses: Tensor,
    costs: Tensor,
    shares: Tensor,
    cost_of: Callable[[Sequence[float]], float],
    budget: float,
    least_ratio: float = 0.5,
) -> list[float]:
    """Keep ratios of all layers, whose cost is at most ``budget``.

    Args:
        losses, costs, shares, least_ratio: see `cheapest_shares`.
        cost_of: the real cost of keep ratios, of which ``costs`` are the part that frames decide.
        budget: of it.

    Raises:
        ValueError: the budget cannot be met.
    """

    def ratios_at(price: float) -> list[float]:
        path = cheapest_shares(losses, costs, price, least_ratio, shares)
        kept = [1.0, *(float(shares[index]) for index in path)]
        return [round(after / before, 4) for before, after in zip(kept, kept[1:])]

    unit = float(losses.max()) / float(costs.max())
    low, high = 0.0, unit
    if cost_of(ratios_at(low)) <= budget:
        return ratios_at(low)
    while cost_of(ratios_at(high)) > budget:
        if high > 1e6 * unit:
            least = cost_of(ratios_at(high))
            raise ValueError(f"a budget of {budget:.4g} cannot be met: the least possible is {least:.4g}")
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if cost_of(ratios_at(middle)) > budget else (low, middle)
    return ratios_at(high)
