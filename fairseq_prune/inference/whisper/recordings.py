"""Recordings of any length, of which only the part that is asked for is read."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Optional, Union

import numpy as np
import torch
from torch import Tensor

from fairseq_prune.data.audio import SAMPLE_RATE, audio_info, read_audio


class Recording(ABC):
    """Mono audio at 16 kHz; ``name`` is for errors, ``samples`` its length."""

    name: str
    samples: int

    @abstractmethod
    def read(self, start: int, samples: int) -> np.ndarray:
        """float32 (samples,) in [-1, 1]."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.samples / SAMPLE_RATE


class FileRecording(Recording):
    """A file, or a stretch of it.

    Args:
        path: of the file.
        offset: first sample, at 16 kHz.
        samples: how many; None: to the end.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no audio, or holds no samples.
    """

    def __init__(self, path, offset: int = 0, samples: Optional[int] = None):
        self.path, self.offset, self.name = Path(path), offset, str(path)
        self.samples = audio_info(path).n_samples - offset if samples is None else samples

    def read(self, start: int, samples: int) -> np.ndarray:
        return read_audio(self.path, self.offset + start, samples)


class ArrayRecording(Recording):
    """Samples in memory.

    Raises:
        ValueError: these are not one-dimensional, or none.
    """

    def __init__(self, waveform: Union[np.ndarray, Tensor], name: str = "the waveform"):
        self.waveform = np.asarray(waveform, dtype=np.float32)
        self.samples, self.name = len(self.waveform), name
        if self.waveform.ndim != 1 or not self.samples:
            raise ValueError(f"{name}: expected samples (n,), found shape {self.waveform.shape}")

    def read(self, start: int, samples: int) -> np.ndarray:
        return self.waveform[start : start + samples]


def as_recording(audio) -> Recording:
    """A recording, from one, a path, or samples (n,) at 16 kHz."""
    if isinstance(audio, Recording):
        return audio
    if isinstance(audio, (np.ndarray, torch.Tensor)):
        return ArrayRecording(audio)
    return FileRecording(audio)
