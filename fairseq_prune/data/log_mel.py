"""Whisper's input (Radford et al. 2022, arXiv 2212.04356, section 2.2): log-mel spectrograms of at most 30 s.

A clip is analysed at its own length. What the published pipeline would append, silence up to 30 s, has one value
in every bin, which `modules.whisper` appends where it is wanted: the features are then the published ones.
"""

from functools import lru_cache
from typing import Union

import numpy as np
import torch
import torchaudio
from torch import Tensor

from fairseq_prune.constants import SAMPLE_RATE

WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
MAX_SAMPLES = 30 * SAMPLE_RATE
MAX_FRAMES = MAX_SAMPLES // HOP
LOWEST_POWER = 1e-10
DYNAMIC_RANGE = 8.0  # powers of ten below a clip's loudest bin


def mel_frames(samples: int) -> int:
    """Frames of a clip of that many samples: all whose window touches it.

    Raises:
        ValueError: the clip is longer than 30 s.
    """
    if samples > MAX_SAMPLES:
        raise ValueError(
            f"found {samples / SAMPLE_RATE:.2f} s of audio, expected at most 30 s, which is Whisper's context"
        )
    # the window's first weight is zero, so that frame t looks at samples 160 t - 199 to 160 t + 199
    return min((samples + WINDOW // 2 - 2) // HOP + 1, MAX_FRAMES)


def log_mel(waveform: Union[Tensor, np.ndarray], mel_bins: int = 80) -> Tensor:
    """Features of one clip.

    Args:
        waveform: (samples,) at 16 kHz in [-1, 1].
        mel_bins: 80, or 128 in Whisper large-v3.

    Returns:
        float32 (frames, mel_bins), a frame every 10 ms.

    Raises:
        ValueError: the clip is longer than 30 s.
    """
    waveform = torch.as_tensor(waveform, dtype=torch.float32)
    frames = mel_frames(len(waveform))
    # silence after the clip, so that the last windows are not filled by reflection, unless at 30 s, as published
    length = min(frames * HOP + WINDOW // 2, MAX_SAMPLES)
    waveform = torch.nn.functional.pad(waveform, (0, length - len(waveform)))
    window, filters = _window_and_filters(mel_bins, waveform.device)
    power = torch.stft(waveform, WINDOW, HOP, window=window, return_complex=True)[:, :frames].abs().square()
    energies = (power.T @ filters).clamp(min=LOWEST_POWER).log10()
    return (energies.clamp(min=energies.max() - DYNAMIC_RANGE) + 4) / 4


def mel_filters(mel_bins: int) -> Tensor:
    """Slaney's mel filters (frequencies, mel_bins)."""
    return torchaudio.functional.melscale_fbanks(
        WINDOW // 2 + 1, 0.0, SAMPLE_RATE / 2, mel_bins, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )


@lru_cache(maxsize=8)
def _window_and_filters(mel_bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The window (samples,), and the filters (frequencies, mel_bins)."""
    return torch.hann_window(WINDOW, device=device), mel_filters(mel_bins).to(device)
