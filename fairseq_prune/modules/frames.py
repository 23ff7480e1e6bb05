"""Encoder frames on their way through layers that drop some of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

from torch import Tensor

from fairseq_prune.pruning import tokens


@dataclass
class TokenPruning:
    """How frames are dropped: a keep ratio for each layer (`schedules.layer_keep_ratios`) and a criterion.

    minimum: frames that an utterance keeps at least. warmup_updates: over which ratios fall from 1.0.
    seed: of the criterion "random", under which utterances of one length keep the same places.
    """

    keep_ratios: Sequence[float]
    criterion: str = "received"
    minimum: int = 1
    warmup_updates: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.criterion not in tokens.CRITERIA:
            raise ValueError(
                f"pruning criterion: found {self.criterion!r}, expected one of {', '.join(tokens.CRITERIA)}"
            )
        if self.minimum < 1:
            raise ValueError(f"frames kept at least: found {self.minimum}, expected 1 or more")
        if self.criterion == "merge" and min(self.keep_ratios, default=1.0) < 0.5:
            raise ValueError(
                f"merging can at most halve the frames of a layer: found keep ratio {min(self.keep_ratios)}"
            )


@dataclass
class Frames:
    """A batch of encoder frames on their way through the layers.

    x: (batch, frames, dim). lengths: valid frames of each utterance. padding_mask: (batch, frames), True on
    padding, or None. positions: (batch, frames), the frame (20 ms) of the utterance that each one was before
    pruning, 0 on padding. sizes: (batch, frames), how many frames a merged one stands for, or None.
    position_bias: what `relative_position` made of these positions, for the next layer to use again.
    """

    x: Tensor
    lengths: list[int]
    padding_mask: Optional[Tensor]
    positions: Tensor
    sizes: Optional[Tensor] = None
    position_bias: Optional[Tensor] = None
    trace: list[Tensor] = field(default_factory=list)

    def select(self, indices: Tensor, padding_mask: Optional[Tensor], counts: list[int]) -> None:
        """Keep the frames at ``indices`` (batch, kept)."""
        self.x = tokens.gather_frames(self.x, indices, padding_mask)
        self._follow(indices, padding_mask, counts)

    def merge(self, keys: Tensor, counts: list[int]) -> None:
        """Merge similar frames; ``keys``: (batch, frames, head_dim)."""
        self.x, self.sizes, indices, padding_mask = tokens.merge_frames(
            self.x, keys, self.sizes, self.lengths, counts
        )
        self._follow(indices, padding_mask, counts)

    def _follow(self, indices: Tensor, padding_mask: Optional[Tensor], counts: list[int]) -> None:
        self.positions = tokens.gather_frames(self.positions, indices, padding_mask)
        self.position_bias = None
        self.padding_mask = padding_mask
        self.lengths = counts
