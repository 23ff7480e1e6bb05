"""Follows the frames of one forward pass through the layers of an encoder of transformers."""

from dataclasses import replace
from typing import Optional

import torch
from torch import Tensor, nn

from fairseq_prune.modules.frames import DropsFrames, Frames, TokenPruning
from fairseq_prune.pruning.attention import attention_bias
from fairseq_prune.pruning.tokens import Lengths, padding_mask_of


class Pruner(DropsFrames):
    """What the layers of an encoder share; plain state, which no file holds.

    Layers find the frames that entered them again where gradient checkpointing runs them a second time.

    Args:
        pruning: how frames are dropped.
        layers: of the encoder.
        config: of the encoder.
    """

    def __init__(self, pruning: TokenPruning, layers: nn.ModuleList, config):
        self.pruning = pruning
        self.first = layers[0]
        self.config = config
        self.training = False
        self.current: Optional[Frames] = None

    def begin(self, batch: int, frames: int, device: torch.device, mask: Optional[Tensor]) -> None:
        """Begin a pass.

        Args:
            mask: (batch, frames), True on frames that are valid; its sums are waited for.
        """
        rows = self.planned_lengths([frames] * batch if mask is None else mask.sum(1).tolist())
        if rows[-1] != rows[0]:
            rows = Lengths.send(rows, device)
        positions = torch.arange(frames, device=device).expand(batch, frames)
        padding = padding_mask_of(rows[0], frames, device)
        self.current = Frames(positions, rows[0], padding, positions, planned=rows[1:])
        self.entering: dict[int, Frames] = {}
        self._left: set[int] = set()
        self._all = self.current

    def enter(self, index: int, x: Tensor) -> Frames:
        """The frames that enter a layer: x (batch, frames, dim)."""
        frames = replace(self.entering.setdefault(index, self.current), x=x)
        expected = frames.planned[index - 1] if index else self._all.lengths
        if frames.lengths != expected:  # layer drop has left out a layer that drops frames
            counts = self.keep_counts(index, frames.lengths)
            frames.planned = [*frames.planned[:index], counts, *frames.planned[index + 1 :]]
        return frames

    def leave(self, index: int, frames: Frames) -> None:
        """Note the frames that a layer has left over."""
        if index not in self._left:
            self._left.add(index)
            self.current = replace(frames, x=frames.positions)  # of x nothing needs to be kept

    def mask(self, frames: Frames, given: Optional[Tensor], dtype: torch.dtype) -> Optional[Tensor]:
        """What a layer of the library gets as attention mask: as given until frames were dropped."""
        if frames.positions is self._all.positions or frames.padding_mask is None:
            return given if frames.positions is self._all.positions else None
        implementation = getattr(self.config, "_attn_implementation", None) or "eager"
        if self.config.model_type == "wavlm" or implementation.startswith("flash"):
            return ~frames.padding_mask
        return attention_bias(frames.padding_mask, None, dtype)
