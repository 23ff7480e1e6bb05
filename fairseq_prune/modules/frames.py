"""Encoder frames on their way through layers that drop some of them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Optional

import torch
from torch import Tensor

from fairseq_prune.pruning import tokens
from fairseq_prune.pruning.criteria import CRITERIA, Criterion, Evidence, criterion_named
from fairseq_prune.pruning.merging import merge_frames
from fairseq_prune.pruning.schedules import warmed_up_ratio


@dataclass
class TokenPruning:
    """How frames are dropped: a keep ratio for each layer (`schedules.layer_keep_ratios`) and a criterion.

    criterion: a name of `criteria.CRITERIA`. minimum: frames that an utterance keeps at least. warmup_updates: over
    which ratios fall from 1.0.
    """

    keep_ratios: Sequence[float]
    criterion: str = "received"
    minimum: int = 1
    warmup_updates: int = 0

    def __post_init__(self):
        criterion_named(self.criterion)
        if self.minimum < 1:
            raise ValueError(f"frames kept at least: found {self.minimum}, expected 1 or more")
        if self.merges and min(self.keep_ratios, default=1.0) < 0.5:
            raise ValueError(
                f"merging can at most halve the frames of a layer: found keep ratio {min(self.keep_ratios)}"
            )

    @property
    def rule(self) -> Criterion:
        """The row of the table."""
        return CRITERIA[self.criterion]

    @property
    def merges(self) -> bool:
        """Whether similar frames become their mean, instead of some being dropped."""
        return self.rule.score is None

    @property
    def keeps_all(self) -> bool:
        """Whether no layer drops frames."""
        return all(ratio == 1.0 for ratio in self.keep_ratios)


@dataclass
class Frames:
    """A batch of encoder frames on their way through the layers.

    x: (batch, frames, dim). lengths: valid frames of each utterance. padding_mask: (batch, frames), True on
    padding, or None. positions: (batch, frames), the frame (20 ms) of the utterance that each one was before
    pruning, 0 on padding. sizes: (batch, frames), how many frames a merged one stands for, or None.
    position_bias: what `relative_position` made of these positions, for the next layer to use again.
    planned: lengths after each layer, see `DropsFrames`. tail: how many frames at the end of each utterance no layer
    drops; None: none.
    """

    x: Tensor
    lengths: list[int]
    padding_mask: Optional[Tensor]
    positions: Tensor
    sizes: Optional[Tensor] = None
    position_bias: Optional[Tensor] = None
    trace: list[Tensor] = field(default_factory=list)
    planned: list[list[int]] = field(default_factory=list)
    tail: Optional[list[int]] = None

    def select(self, indices: Tensor, padding_mask: Optional[Tensor], counts: list[int]) -> None:
        """Keep the frames at ``indices`` (batch, kept)."""
        self.x = tokens.gather_frames(self.x, indices, padding_mask)
        if self.sizes is not None:
            self.sizes = tokens.gather_frames(self.sizes, indices, padding_mask)
        self._follow(indices, padding_mask, counts)

    def merge(self, keys: Tensor, counts: list[int]) -> None:
        """Merge similar frames; ``keys``: (batch, frames, head_dim)."""
        self.x, self.sizes, indices, padding_mask = merge_frames(
            self.x, keys, self.sizes, self.lengths, counts, self.competing(self.lengths)
        )
        self._follow(indices, padding_mask, counts)

    def competing(self, lengths: list[int]) -> list[int]:
        """Of these lengths, how many frames compete for staying: all but the tail."""
        return lengths if self.tail is None else tokens.shortened(lengths, self.tail)

    def _follow(self, indices: Tensor, padding_mask: Optional[Tensor], counts: list[int]) -> None:
        self.positions = tokens.gather_frames(self.positions, indices, padding_mask)
        self.position_bias = None
        self.padding_mask = padding_mask
        self.lengths = counts


class DropsFrames:
    """Mixin of encoders whose layers drop frames, between their attention and their feed-forward block.

    pruning: how. num_updates: of fairseq's trainer; None: unknown, the warm-up is over.
    """

    pruning: TokenPruning
    num_updates: Optional[int] = None

    def set_num_updates(self, num_updates: int) -> None:
        """Called by fairseq's trainer before each update and when a checkpoint is loaded."""
        self.num_updates = num_updates

    def keep_ratio(self, index: int) -> float:
        """Of a layer, where the warm-up is now."""
        ratio = self.pruning.keep_ratios[index]
        if ratio == 1.0 or self.num_updates is None:
            return ratio
        return warmed_up_ratio(ratio, self.num_updates, self.pruning.warmup_updates)

    def keep_counts(self, index: int, lengths: list[int]) -> list[int]:
        """Frames that are left of each utterance after a layer."""
        ratio = self.keep_ratio(index)
        return lengths if ratio == 1.0 else tokens.keep_counts(lengths, ratio, self.pruning.minimum)

    def planned_lengths(
        self, lengths: list[int], tail: Optional[list[int]] = None, skipped: Optional[Sequence[bool]] = None
    ) -> list[list[int]]:
        """Lengths before the first layer and after each.

        Args:
            tail: frames at the end of each utterance that no layer drops.
            skipped: layers that are left out, which drop nothing.
        """
        rows = [lengths]
        for index in range(len(self.pruning.keep_ratios)):
            before = rows[-1]
            if skipped is not None and skipped[index]:
                rows.append(before)
            elif tail is None:
                rows.append(self.keep_counts(index, before))
            else:
                competing = self.keep_counts(index, [n - fixed for n, fixed in zip(before, tail)])
                rows.append([n + fixed for n, fixed in zip(competing, tail)])
        return rows

    @contextmanager
    def all_kept(self) -> Iterator[None]:
        """Within it no layer drops frames."""
        before = self.pruning
        self.pruning = replace(before, keep_ratios=[1.0] * len(before.keep_ratios))
        try:
            yield
        finally:
            self.pruning = before

    def prunes(self, index: int, frames: Frames) -> bool:
        """Whether a layer drops any of these frames."""
        return frames.planned[index] != frames.lengths

    def drop_frames(
        self, index: int, frames: Frames, received: Optional[Tensor], keys: Tensor, residual: Tensor
    ) -> None:
        """Drop or merge frames as planned.

        Args:
            received: (batch, frames), where the criterion reads it.
            keys: (batch, heads, frames, head_dim), of the layer's attention.
            residual: (batch, frames, dim), the residual stream after it.
        """
        counts = frames.planned[index]
        if self.pruning.merges:
            frames.merge(keys.mean(dim=1), counts)
            return
        # other random frames at every update and layer, always the same ones in evaluation
        update = (self.num_updates or 0) if self.training else 0
        seed = index + len(self.pruning.keep_ratios) * update
        competing = frames.competing(frames.lengths)
        with torch.no_grad():
            scores = self.pruning.rule.score(
                Evidence(residual, competing, frames.competing(counts), received, seed)
            )
            if frames.tail is not None:  # before all others
                tail = torch.arange(scores.size(1), device=scores.device) >= tokens.to_device(
                    competing, scores.device
                ).unsqueeze(1)
                scores = scores.masked_fill(tail, math.inf)
        indices, padding_mask = tokens.top_frames(scores, frames.lengths, counts)
        frames.select(indices, padding_mask, counts)
