"""What makes a frame important: a function for each criterion, and one table of them.

A new criterion is a function and a row of `CRITERIA`, and nothing else: options, help texts and encoders read it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from .tokens import to_device


@dataclass
class Evidence:
    """What a criterion may look at, of a layer that has attended and is about to drop frames.

    residual: (batch, frames, dim), the residual stream before a layer norm, which would make all norms nearly the same.
    lengths, counts: valid frames of each utterance before and after the drop.
    received: (batch, frames), attention that each frame receives; None unless the criterion reads it.
    seed: differs by layer, and in training by update.
    """

    residual: Tensor
    lengths: Sequence[int]
    counts: Sequence[int]
    received: Optional[Tensor] = None
    seed: int = 0


def received_scores(seen: Evidence) -> Tensor:
    """Attention that the frame receives from all frames of the utterance."""
    return seen.received


def norm_scores(seen: Evidence) -> Tensor:
    """Norm of the frame's residual stream."""
    return seen.residual.detach().float().norm(dim=-1)


def uniform_scores(seen: Evidence) -> Tensor:
    """1 for evenly spaced frames, the middle of each of ``counts[i]`` equal stretches; 0 for the others."""
    frames, device = seen.residual.shape[1], seen.residual.device
    place = torch.arange(frames, device=device)
    length = to_device(seen.lengths, device).unsqueeze(1)
    count = to_device(seen.counts, device).unsqueeze(1)
    # stretch k has its middle at (2 k + 1) length / (2 count): the first one at or after the place is before the next
    first = (2 * count * place - length + 2 * length - 1) // (2 * length)
    return ((2 * first + 1) * length < 2 * count * (place + 1)).float()


def random_scores(seen: Evidence) -> Tensor:
    """Pseudo-random numbers of (seed, utterance length, frame), whatever the batch.

    Utterances of the same length have the same scores: nothing else tells them apart in every batch.
    """
    frames, device = seen.residual.shape[1], seen.residual.device
    value = torch.arange(frames, device=device) + to_device(seen.lengths, device).unsqueeze(1) * 1_000_003
    value = value + seen.seed * 7_368_787 % 2**62  # of 64 bits
    for _ in range(2):  # an integer hash: multiply and fold the high bits down
        value = ((value ^ (value >> 15)) * 2_246_822_519) & 0xFFFFFFFF
    return (value ^ (value >> 16)).float()


class Criterion(NamedTuple):
    """score: (batch, frames), higher is more important; None where similar frames are merged, and none dropped.

    reads_attention: it needs `Evidence.received`, which costs the layer some time.
    """

    score: Optional[Callable[[Evidence], Tensor]]
    reads_attention: bool = False


CRITERIA = {
    "received": Criterion(received_scores, reads_attention=True),
    "random": Criterion(random_scores),
    "uniform": Criterion(uniform_scores),
    "norm": Criterion(norm_scores),
    "merge": Criterion(None),
}


def criterion_named(name: str) -> Criterion:
    """A row of `CRITERIA`.

    Raises:
        ValueError: there is no such criterion.
    """
    if name not in CRITERIA:
        raise ValueError(f"pruning criterion: found {name!r}, expected one of {', '.join(CRITERIA)}")
    return CRITERIA[name]
