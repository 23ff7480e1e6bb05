"""Masked spans: where they may lie, how many there are, and what they depend on."""

import numpy as np
import pytest
from fairseq.utils import set_torch_seed
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.modules.masking import seeded_generator, span_mask


def runs(row):
    """Lengths of the stretches of True in a row."""
    return [len(run) for run in "".join("x" if masked else " " for masked in row).split()]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.floats(0.0, 1.0),
    st.integers(1, 30),
    st.integers(0, 10_000),
)
def test_every_row_keeps_a_step_and_its_padding_and_masks_whole_spans(lengths, prob, span, seed):
    mask = span_mask(lengths, max(lengths) + 3, prob, span, np.random.default_rng(seed))
    assert mask.shape == (len(lengths), max(lengths) + 3)
    for row, length in zip(mask, lengths):
        assert not row[:length].all() and not row[length:].any()
        assert all(run >= min(span, length - 1) for run in runs(row))


@pytest.mark.parametrize("prob, span", [(0.3, 10), (0.05, 10), (0.1, 64)])
def test_the_expected_share_lies_in_spans(prob, span):
    mask = span_mask([400] * 2000, 400, prob, span, np.random.default_rng(0))
    # n spans at different places of 400 cover about 1 - exp(-n * span / 400) of it
    share = mask.mean()
    assert 0.85 * (1 - np.exp(-prob)) < share < 1.02 * prob


def test_rows_of_one_batch_differ():
    mask = span_mask([100, 100], 100, 0.5, 10, np.random.default_rng(0))
    assert (mask[0] != mask[1]).any()


def test_masks_repeat_with_fairseqs_seed_of_an_update_and_differ_by_batch():
    def mask(seed, lengths):
        set_torch_seed(seed)  # what fairseq's trainer calls before each update
        return span_mask(lengths, 90, 0.5, 10, seeded_generator(lengths))[0, :80].tolist()

    assert mask(1, [80, 90]) == mask(1, [80, 90])
    assert mask(1, [80, 90]) != mask(2, [80, 90])
    assert mask(1, [80, 90]) != mask(1, [80, 89])  # as other processes have


def test_numpys_global_generator_is_left_alone():
    before = np.random.get_state()[1].tolist()
    span_mask([50], 50, 0.5, 10, seeded_generator([50]))
    assert np.random.get_state()[1].tolist() == before
