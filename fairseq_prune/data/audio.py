"""Reading segments of audio files in place, as mono float32 at 16 kHz."""

import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
import torchaudio

SAMPLE_RATE = 16000  # Hz; every count of samples in this package is at this rate
READ_MARGIN = 64  # resampling filters are shorter than this many periods of the common rate


class AudioInfo(NamedTuple):
    """What a file holds: its length in samples at 16 kHz, and its own rate and number of channels."""

    n_samples: int
    file_rate: int
    channels: int


def resampled_length(length: int, old_rate: int, new_rate: int) -> int:
    """Number of samples that ``length`` samples at ``old_rate`` become at ``new_rate``."""
    return -(-length * new_rate // old_rate)


@lru_cache(maxsize=32)
def _resampler(old_rate: int, new_rate: int) -> torchaudio.transforms.Resample:
    # the transform keeps its kernel, which takes longer to compute than to apply
    return torchaudio.transforms.Resample(old_rate, new_rate)


def resample(waveform: np.ndarray, old_rate: int, new_rate: int) -> np.ndarray:
    """Resample float32 ``(samples,)`` to ``(resampled_length(samples, old_rate, new_rate),)``."""
    if old_rate == new_rate or len(waveform) == 0:
        return waveform
    with torch.no_grad():
        resampled = _resampler(old_rate, new_rate)(torch.from_numpy(waveform)).numpy()
    # torchaudio rounds the length in float32, which is off by one for long files
    length = resampled_length(len(waveform), old_rate, new_rate)
    return np.pad(resampled[:length], (0, max(0, length - len(resampled))))


def _open(path) -> soundfile.SoundFile:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such audio file")
    try:
        file = soundfile.SoundFile(str(path))
    except soundfile.SoundFileError as error:
        size = Path(path).stat().st_size
        raise ValueError(
            f"{path}: expected an audio file, found {size} bytes that are not one ({error})"
        ) from None
    if file.frames <= 0:
        file.close()
        raise ValueError(f"{path}: expected audio, found a file of 0 samples")
    return file


def audio_info(path) -> AudioInfo:
    """Read a file's header.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not audio, or holds no samples.
    """
    with _open(path) as file:
        length = resampled_length(file.frames, file.samplerate, SAMPLE_RATE)
        return AudioInfo(length, file.samplerate, file.channels)


def read_audio(path, offset: int = 0, n_frames: int = -1) -> np.ndarray:
    """Read samples ``offset`` to ``offset + n_frames`` (at 16 kHz; -1: to the end) of a file.

    Only the segment is read. Channels are averaged; another rate is resampled, and the result equals the
    same slice of the whole file resampled.

    Returns:
        float32 ``(n_frames,)``, in [-1, 1] for integer formats.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not audio, holds no samples, or ends before the segment does.
    """
    with _open(path) as file:
        rate = file.samplerate
        available = resampled_length(file.frames, rate, SAMPLE_RATE)
        if n_frames < 0:
            n_frames = available - offset
        if offset < 0 or n_frames <= 0 or offset + n_frames > available:
            raise ValueError(
                f"{path}: expected samples {offset} to {offset + n_frames} (at {SAMPLE_RATE} Hz), "
                f"found {available} samples"
            )
        common = math.gcd(rate, SAMPLE_RATE)
        old, new = rate // common, SAMPLE_RATE // common
        # whole periods of `old` file samples = `new` output samples keep the resampling filters in phase
        margin = 0 if old == new else READ_MARGIN
        first_period = max(0, offset // new - margin)
        last_period = -(-(offset + n_frames) // new) + margin
        start, stop = first_period * old, min(last_period * old, file.frames)
        damaged = (
            f"{path}: truncated or damaged: expected {file.frames} samples at {rate} Hz as its header says"
        )
        try:
            file.seek(start)
            samples = file.read(stop - start, dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise ValueError(f"{damaged}, found none at {start} to {stop} ({error})") from None
    if len(samples) < stop - start:
        raise ValueError(f"{damaged}, found {start + len(samples)}")
    waveform = resample(np.ascontiguousarray(samples.mean(axis=1)), old, new)
    skip = offset - first_period * new
    return waveform[skip : skip + n_frames]
