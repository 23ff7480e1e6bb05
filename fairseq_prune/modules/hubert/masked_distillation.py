"""What a student learns that does not hear all frames (ARMHuBERT, Jang et al. 2023, arXiv 2305.11685)."""

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.modules.masking import seeded_generator, span_mask
from fairseq_prune.pruning.tokens import to_device


def draw_mask(
    encoder: TokenPrunedHubert, lengths: Sequence[int], prob: float, span: int, device: torch.device
) -> Tensor:
    """Spans of the frames that the encoder makes of utterances of ``lengths`` samples, drawn with fairseq's seed.

    Args:
        prob, span: as of `masking.span_mask`.

    Returns:
        (batch, frames), True where the mask embedding is to stand for a frame.
    """
    frames = [max(1, encoder.frame_counts(samples)[0]) for samples in lengths]
    return to_device(span_mask(frames, max(frames), prob, span, seeded_generator(frames)), device)


@torch.no_grad()
def teacher_states(
    teacher: TokenPrunedHubert,
    source: Tensor,
    lengths: Sequence[int],
    before_positions: bool,
    masked: Optional[Tensor],
) -> list[Tensor]:
    """The hidden states to learn, by layer.

    At a masked frame they are what the teacher makes of the whole utterance, which the student has to guess from the
    other frames. At the others they are what the teacher makes of what the student hears: it cannot know more. The
    state 0, below which there is no layer that could fill a gap, is of what the student hears throughout.

    Args:
        source, lengths, before_positions: as of `TokenPrunedHubert.layer_outputs`.
        masked: (batch, frames), or None where the student hears everything.

    Returns:
        (batch, frames, dim) for each layer, and for what enters the first.
    """
    states, _ = teacher.layer_outputs(source, lengths, before_positions)
    if masked is None:
        return states
    heard, _ = teacher.layer_outputs(source, lengths, before_positions, masked)
    filled = [torch.where(masked.unsqueeze(2), *pair) for pair in zip(states[1:], heard[1:])]
    return [heard[0], *filled]
