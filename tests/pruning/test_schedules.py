import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.pruning.schedules import SCHEDULES, layer_keep_ratios, warmed_up_ratio


def test_constant_ratio_from_a_layer_on():
    assert layer_keep_ratios(4, 0.7, start_layer=3) == [1.0, 1.0, 0.7, 0.7]


def test_linear_goes_from_first_to_last_ratio():
    ratios = layer_keep_ratios(5, 0.9, start_layer=3, schedule="linear", final_keep_ratio=0.5)
    assert ratios == pytest.approx([1.0, 1.0, 0.9, 0.7, 0.5])


def test_cosine_is_flat_at_both_ends():
    ratios = layer_keep_ratios(9, 1.0, schedule="cosine", final_keep_ratio=0.5)
    steps = [a - b for a, b in zip(ratios, ratios[1:])]
    assert ratios[4] == pytest.approx(0.75)
    assert steps[0] < steps[3] and steps[-1] < steps[3]


@settings(deadline=None)
@given(st.integers(1, 24), st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.sampled_from(SCHEDULES), st.data())
def test_every_ratio_lies_between_first_and_last(layers, first, last, schedule, data):
    start = data.draw(st.integers(1, layers))
    ratios = layer_keep_ratios(layers, first, start, schedule, last)
    low, high = min(first, last), max(first, last)
    assert len(ratios) == layers and all(ratio == 1.0 for ratio in ratios[: start - 1])
    assert all(low - 1e-9 <= ratio <= high + 1e-9 for ratio in ratios[start - 1 :])


def test_explicit_ratios_override():
    assert layer_keep_ratios(2, 0.1, explicit=[1.0, 0.5]) == [1.0, 0.5]


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5, float("nan")])
def test_a_ratio_outside_is_refused(ratio):
    with pytest.raises(ValueError, match="expected a share of frames to keep"):
        layer_keep_ratios(4, ratio)
    with pytest.raises(ValueError, match="layer 2"):
        layer_keep_ratios(2, explicit=[1.0, ratio])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(start_layer=0), "first pruning layer: found 0"),
        (dict(start_layer=5), "first pruning layer: found 5"),
        (dict(schedule="square"), "keep schedule: found 'square'"),
        (dict(schedule="linear"), "needs the final keep ratio"),
        (dict(explicit=[0.5]), "found 1, expected 4"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        layer_keep_ratios(4, 0.9, **arguments)


def test_warm_up_falls_linearly_from_all_frames():
    assert [warmed_up_ratio(0.6, update, 100) for update in (0, 50, 100, 200)] == pytest.approx(
        [1, 0.8, 0.6, 0.6]
    )
    assert warmed_up_ratio(0.6, 0, 0) == 0.6
