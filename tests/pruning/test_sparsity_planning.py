"""Plans of sparsity by component, against a search of all plans."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.pruning.sparsity_planning import convex_hull, plan_sparsities

LEVELS = (0.25, 0.5, 0.75)
curves = st.lists(st.floats(0, 10), min_size=3, max_size=3).map(lambda losses: dict(zip(LEVELS, losses)))


def interpolated(hull, sparsity):
    for (left, low), (right, high) in zip(hull, hull[1:]):
        if left <= sparsity <= right + 1e-9:
            return low + (high - low) * (sparsity - left) / (right - left)
    raise AssertionError(sparsity)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(curves, st.integers(1, 4)), min_size=2, max_size=3),
    st.sampled_from([0.1, 0.25, 0.4, 0.6, 0.75]),
)
def test_no_plan_on_a_grid_loses_less(components, sparsity):
    losses = {str(i): curve for i, (curve, _) in enumerate(components)}
    weights = {str(i): 1000 * size for i, (_, size) in enumerate(components)}
    plan = plan_sparsities(losses, weights, sparsity)
    total = sum(weights.values())
    assert sum(plan[name] * weights[name] for name in plan) / total == pytest.approx(sparsity, abs=1e-3)
    hulls = {name: convex_hull(curve) for name, curve in losses.items()}
    found = sum(interpolated(hulls[name], min(plan[name], 0.75)) for name in plan)
    for levels in itertools.product([i * 0.05 for i in range(16)], repeat=len(losses)):
        if sum(level * weights[name] for level, name in zip(levels, losses)) / total >= sparsity:
            other = sum(interpolated(hulls[name], level) for level, name in zip(levels, losses))
            assert found <= other + 0.02  # plans are rounded


def test_a_hull_leaves_out_what_lies_above_it_and_counts_no_gain():
    assert convex_hull({0.2: 3.0, 0.4: 1.0, 0.6: 4.0}) == [(0.0, 0.0), (0.4, 1.0), (0.6, 4.0)]
    assert convex_hull({0.3: -0.5, 0.5: 1.0}) == [(0.0, 0.0), (0.3, 0.0), (0.5, 1.0)]


def test_what_costs_nothing_goes_first():
    losses = {"a": {0.5: 0.0}, "b": {0.5: 2.0}}
    assert plan_sparsities(losses, {"a": 100, "b": 300}, 0.125) == {"a": 0.5, "b": 0.0}
    assert plan_sparsities(losses, {"a": 100, "b": 300}, 0.2) == {"a": 0.5, "b": 0.1}


def test_more_than_was_measured_is_refused():
    with pytest.raises(ValueError, match=r"found 0.6, expected at most 0\.4000, the highest measured"):
        plan_sparsities({"a": {0.5: 0.0}, "b": {0.3: 1.0}}, {"a": 100, "b": 100}, 0.6)
    with pytest.raises(ValueError, match="expected a share of weights"):
        plan_sparsities({"a": {0.5: 0.0}}, {"a": 1}, 1.2)
