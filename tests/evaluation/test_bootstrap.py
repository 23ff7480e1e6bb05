import numpy as np
import pytest

from fairseq_prune.evaluation.bootstrap import rate_interval


def test_the_interval_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(0)
    errors, tokens = rng.binomial(20, 0.1, size=400), np.full(400, 20)
    rate = 100 * errors.sum() / tokens.sum()
    spread = 100 * errors.std() / 20 / 400**0.5
    low, high = rate_interval(errors, tokens)
    assert low == pytest.approx(rate - 1.96 * spread, abs=0.15)
    assert high == pytest.approx(rate + 1.96 * spread, abs=0.15)
    assert (low, high) == rate_interval(errors, tokens)


def test_utterances_that_are_alike_leave_no_doubt():
    assert rate_interval([1, 1, 1], [4, 4, 4]) == (25, 25)


def test_empty_references_have_no_rate():
    with pytest.raises(ValueError, match="references without a token"):
        rate_interval([0, 1], [0, 0])
