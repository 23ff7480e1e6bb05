"""Sparsities by component that add up to a given one at the least loss.

What a component loses at some sparsities is measured beforehand, each component alone. Losses are taken to add up. Then
the best plan goes down the lower convex hulls of these curves: the next weights to go are always those whose removal
costs the least loss a weight.
"""

from collections.abc import Mapping

from .magnitude import check_sparsity


def convex_hull(losses: Mapping[float, float]) -> list[tuple[float, float]]:
    """(sparsity, loss) of the corners of a curve's lower convex hull; at sparsity 0 the loss is 0.

    A loss below 0 counts as 0: noise of the measurement is no reason to prune more.
    """
    hull: list[tuple[float, float]] = []
    for point in sorted({0.0: 0.0, **{s: max(loss, 0.0) for s, loss in losses.items()}}.items()):
        while len(hull) > 1 and _slope(hull[-2], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull


def _slope(start: tuple[float, float], end: tuple[float, float]) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])


def plan_sparsities(
    losses: Mapping[str, Mapping[float, float]], weights: Mapping[str, int], sparsity: float
) -> dict[str, float]:
    """The sparsity of each component, of a model of the given sparsity.

    Args:
        losses: what a component adds to the loss by its sparsity, the others dense.
        weights: of each component, how many it has.
        sparsity: of all components together.

    Returns:
        by component, rounded to 1e-4.

    Raises:
        ValueError: a sparsity outside [0, 1), or more than the highest ones that were measured amount to.
    """
    check_sparsity(sparsity)
    found = dict.fromkeys(losses, 0.0)
    steps = []
    for component, curve in losses.items():
        hull = convex_hull(curve)
        for start, end in zip(hull, hull[1:]):
            steps.append((_slope(start, end) / weights[component], component, end[0]))
    left = sparsity * sum(weights[component] for component in losses)
    for _, component, level in sorted(steps, key=lambda step: step[0]):
        step = (level - found[component]) * weights[component]
        if step >= left:
            found[component] += left / weights[component]
            left = 0.0
            break
        found[component], left = level, left - step
    if left > 0.5:  # of a weight
        most = sum(max(curve) * weights[component] for component, curve in losses.items())
        most /= sum(weights[component] for component in losses)
        raise ValueError(f"sparsity: found {sparsity}, expected at most {most:.4f}, the highest measured")
    return {component: round(value, 4) for component, value in found.items()}
