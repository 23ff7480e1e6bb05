"""Masked spans of frames and channels (SpecAugment, Park et al. 2019, arXiv 1904.08779), drawn on the host."""

from collections.abc import Sequence

import numpy as np
import torch


def seeded_generator(lengths: Sequence[int]) -> np.random.Generator:
    """A generator of the state of torch's CPU generator, and of the batch's ``lengths``.

    fairseq seeds torch's generators alike in all processes before every update (seed + update). So a resumed
    training masks as one without a break does, and processes mask differently, having other batches.
    """
    return np.random.default_rng([int(torch.randint(2**31, ())), *lengths])


def span_mask(
    lengths: Sequence[int], width: int, prob: float, span: int, generator: np.random.Generator
) -> np.ndarray:
    """Spans at random places of each row, which may overlap; at least one step of every row stays unmasked.

    Args:
        lengths: valid steps of each row, 1 to ``width``; only these are masked.
        width: of the mask.
        prob: expected share of steps in spans, if none overlapped.
        span: length of a span in steps; one less than the row, where that is shorter.

    Returns:
        (batch, width), True where masked.
    """
    length = np.asarray(lengths)[:, None]
    reach = np.minimum(span, length - 1)  # 0 in a row of one step
    spans = np.floor(prob * length / span + generator.random(length.shape))
    spans = np.minimum(spans, (length - 1) // np.maximum(reach, 1))
    place = np.arange(width)
    draws = np.where(place <= length - reach, generator.random((len(lengths), width)), np.inf)
    starts = draws.argsort(1).argsort(1) < spans
    # a step is masked if the last start up to it is less than a span away
    last_start = np.maximum.accumulate(np.where(starts, place, -width), axis=1)
    return (place - last_start < reach) & (place < length)
