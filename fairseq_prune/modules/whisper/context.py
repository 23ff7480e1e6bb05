"""What Whisper's encoder hears: a clip, and how much silence after it.

Of the silence it may take one frame in so many, which then stands for all of them: silence has no content, but its
length tells the decoder that the clip is over.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from fairseq_prune.pruning.tokens import Lengths

SILENCE_BELOW_MAXIMUM = 2.0  # of features: a clip's floor, 80 dB below its maximum
LOWEST_FEATURE = -1.5  # of digital silence
MEL_FRAMES_A_SECOND = 100
# mel frames of silence that the convolutions hear after a clip, where its frames are thinned: 2 would do, of which
# every further frame is a copy
CONVOLVED_SILENCE = 8


def silence_of(audio_context: str) -> Optional[int]:
    """Mel frames of silence after a clip; None: as many as fill it up to the encoder's 30 s.

    Args:
        audio_context: ``30s``, ``clip``, or ``clip+SECONDS``.

    Raises:
        ValueError: it is none of these.
    """
    if audio_context == "30s":
        return None
    found = re.fullmatch(r"clip(?:\+(\d+(?:\.\d{1,2})?))?", audio_context, re.ASCII)
    if not found or float(found[1] or 0) > 30:
        raise ValueError(
            f"--audio-context: found {audio_context!r}, expected 30s, clip, or clip+SECONDS of silence, such as clip+4"
        )
    return round(float(found[1] or 0) * MEL_FRAMES_A_SECOND)


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


@dataclass
class Hearing:
    """Lengths of what the encoder hears of a batch, by utterance.

    mel: mel frames, the silence included. clip: encoder frames of the clip alone. silence: encoder frames of the
    silence, of which one in ``stride`` is taken. convolved: mel frames that the convolutions work on.
    """

    mel: list[int]
    clip: list[int]
    silence: list[int]
    convolved: list[int]
    stride: int = 1

    @classmethod
    def of(cls, mel_frames: Sequence[int], silence: Optional[int], limit: int, stride: int = 1) -> "Hearing":
        """Of clips of so many mel frames, with ``silence`` as of `silence_of`; no more than ``limit`` mel frames."""
        mel = [limit if silence is None else min(frames + silence, limit) for frames in mel_frames]
        clip = [(frames + 1) // 2 for frames in mel_frames]
        after = [(end + 1) // 2 - start for end, start in zip(mel, clip)]
        convolved = mel
        if stride > 1:
            convolved = [min(end, frames + CONVOLVED_SILENCE) for end, frames in zip(mel, mel_frames)]
        return cls(mel, clip, after, convolved, stride)

    @property
    def is_thinned(self) -> bool:
        """Whether any frames of silence are left out."""
        return self.stride > 1 and any(self.silence)

    @property
    def taken_silence(self) -> list[int]:
        """Frames of the silence that are taken."""
        return [-(-frames // self.stride) for frames in self.silence]

    @property
    def lengths(self) -> list[int]:
        """Frames that enter the first layer."""
        return [clip + silence for clip, silence in zip(self.clip, self.taken_silence)]


def thinned(clip: Lengths, silence: Lengths, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which frames are taken of clips with silence after them: of each ``stride`` frames of silence the middle one.

    Returns:
        (batch, frames) each: the convolutions' outputs to take, the positions (20 ms) that these stand at, and how many
        frames each stands for. What lies after an utterance's own frames means nothing.
    """
    length = max(start + -(-frames // stride) for start, frames in zip(clip, silence))
    clip, silence = clip.on_device[:, None], silence.on_device[:, None]
    place = torch.arange(length, device=clip.device)
    first = (place - clip).clamp(min=0) * stride  # of the stretch of silence
    size = (silence - first).clamp(min=1, max=stride)
    silent = (place >= clip) & (first < silence)
    positions = torch.where(silent, clip + first + size // 2, torch.minimum(place, clip - 1))
    # the frames of silence are copies of each other, but for the first, whose convolution touches the clip
    return torch.minimum(positions, clip + 1), positions, torch.where(silent, size, 1)
