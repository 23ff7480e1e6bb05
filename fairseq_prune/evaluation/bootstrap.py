"""How far a score would move with another choice of utterances (bootstrap, Bisani and Ney 2004)."""

from collections.abc import Sequence

import numpy as np

DRAWS = 1000


def resample(statistics: np.ndarray, draws: int = DRAWS, seed: int = 1) -> np.ndarray:
    """Sums over utterances that are drawn with replacement: (utterances, n) -> (draws, n)."""
    count = len(statistics)
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws) @ statistics


def interval(scores: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """The interval in which this share of the scores (draws,) lies."""
    low, high = np.quantile(scores, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def rate_interval(errors: Sequence[int], tokens: Sequence[int]) -> tuple[float, float]:
    """A 95 % interval of an error rate in percent.

    Args:
        errors: (utterances,) of each.
        tokens: (utterances,) of each reference.

    Raises:
        ValueError: the references are empty.
    """
    if not sum(tokens):
        raise ValueError("an error rate of references without a token")
    errors, tokens = resample(np.stack([errors, tokens], axis=1)).T
    return interval(100 * errors[tokens > 0] / tokens[tokens > 0])
