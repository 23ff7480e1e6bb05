"""What Whisper's encoder hears: log-mel features of clips of different lengths, and silence after them."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SILENCE_BELOW_MAXIMUM = 2.0  # of features: a clip's floor, 80 dB below its maximum
LOWEST_FEATURE = -1.5  # of digital silence


def valid_positions(lengths: Tensor, positions: int) -> Tensor:
    """(batch,) -> (batch, positions), True on the first ``lengths``."""
    return torch.arange(positions, device=lengths.device) < lengths[:, None]


def with_silence(features: Tensor, lengths: Tensor, frames: int) -> Tensor:
    """Log-mel features with silence after them, as if the audio had been filled up with zeros.

    Args:
        features: (batch, frames, mel bins), anything after the valid frames.
        lengths: (batch,) valid frames.
        frames: how many there shall be.

    Returns:
        (batch, frames, mel bins).
    """
    padding = ~valid_positions(lengths, frames)[..., None]
    features = F.pad(features, (0, 0, 0, frames - features.size(1)))
    loudest = features.masked_fill(padding, -math.inf).amax((1, 2), keepdim=True)
    return torch.where(padding, (loudest - SILENCE_BELOW_MAXIMUM).clamp(min=LOWEST_FEATURE), features)
