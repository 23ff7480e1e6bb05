"""Groups of layers that are similar, as what to distil (SKILL, Zampierin et al. 2024, arXiv 2402.16830)."""

from itertools import combinations

import torch
from torch import Tensor


def linear_cka(states: Tensor) -> Tensor:
    """How similar layers are (Kornblith et al. 2019, arXiv 1905.00414, linear centred kernel alignment).

    Args:
        states: (layers, frames, dim) of the same frames.

    Returns:
        (layers, layers), float64: 1 where two layers are equal up to rotation, scale and shift, 0 where unrelated.
    """
    centred = states.double() - states.double().mean(1, keepdim=True)
    products = [torch.stack([(x.T @ y).square().sum() for y in centred]) for x in centred]
    products = torch.stack(products)
    norms = products.diagonal().sqrt()
    return products / (norms[:, None] * norms)


def group_layers(similarity: Tensor, count: int) -> list[list[int]]:
    """Hierarchical clustering with average linkage, until so many groups are left.

    Args:
        similarity: (layers, layers).
        count: of groups.

    Raises:
        ValueError: there are fewer layers, or no group is asked for.
    """
    groups = [[layer] for layer in range(len(similarity))]
    if not 1 <= count <= len(groups):
        raise ValueError(f"groups of layers: found {count}, expected 1 to {len(groups)}")

    def linkage(pair: tuple[int, int]) -> float:
        one, other = (groups[index] for index in pair)
        return similarity[one][:, other].mean().item()

    while len(groups) > count:
        first, second = max(combinations(range(len(groups)), 2), key=linkage)
        groups[first] = sorted(groups[first] + groups.pop(second))
    return groups
