"""Reading segments of audio files in place, as mono float32 at 16 kHz, with all checks of what a file holds."""

import io
import logging
import math
import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from fairseq_prune.constants import SAMPLE_RATE

logger = logging.getLogger(__name__)

FILE_RATES = range(2_000, 1_000_001)  # Hz; another rate in a header is damage
FILTER_REACH = 256  # periods of the lower rate: soxr's filter reaches less far to each side
BLOCK = 2**22  # values read at a time: memory follows what is in the file, not what its header promises
# a FLAC frame of digital silence holds 65,535 samples in about 10 bytes; no format packs more
MOST_SAMPLES_PER_BYTE = 8192
MP3_TAIL = 4 * 1152  # samples; encoders pad by up to two frames and a half of 1,152
LOUDEST = 16.0  # float formats may exceed 1; a peak above this (24 dB) is another scale
CANCELLED = 0.01  # a mean of the channels this far below the loudest channel (40 dB) has lost the speech


class AudioInfo(NamedTuple):
    """What a file holds: its length in samples at 16 kHz, its own rate and number of channels.

    ``silence`` says why a file that can be read holds no speech; it is empty for other files.
    """

    n_samples: int
    file_rate: int
    channels: int
    silence: str = ""


def resampled_length(length: int, old_rate: int, new_rate: int) -> int:
    """Number of samples that ``length`` samples at ``old_rate`` become at ``new_rate``."""
    return -(-length * new_rate // old_rate)


def resample(waveform: np.ndarray, old_rate: int, new_rate: int) -> np.ndarray:
    """Resample float32 ``(samples,)`` to ``(resampled_length(samples, old_rate, new_rate),)``."""
    if old_rate == new_rate or len(waveform) == 0:
        return waveform
    resampled = soxr.resample(waveform, old_rate, new_rate)
    length = resampled_length(len(waveform), old_rate, new_rate)  # soxr rounds to the nearest
    return np.pad(resampled[:length], (0, max(0, length - len(resampled))))


def audio_info(path) -> AudioInfo:
    """Read a file's header, which says nothing of silence.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not audio, holds no samples, or is too small for what its header promises.
    """
    with _open(path) as file:
        length = resampled_length(_length(path, file), file.samplerate, SAMPLE_RATE)
        return AudioInfo(length, file.samplerate, file.channels)


def inspect_audio(path) -> AudioInfo:
    """Read a whole file, a block at a time, and check every sample.

    Raises:
        FileNotFoundError, ValueError: as `audio_info` and `read_audio`.
    """
    with _open(path) as file:
        length = _length(path, file)
        peak = mixed_peak = 0.0
        for mixed, loudest in _blocks(path, file, 0, length):
            peak = max(peak, loudest)
            mixed_peak = max(mixed_peak, loudest if file.channels == 1 else _peak(mixed))
        n_samples = resampled_length(length, file.samplerate, SAMPLE_RATE)
        return AudioInfo(n_samples, file.samplerate, file.channels, _silence(peak, mixed_peak))


def read_audio(path, offset: int = 0, n_frames: int = -1) -> np.ndarray:
    """Read samples ``offset`` to ``offset + n_frames`` (at 16 kHz; -1: to the end) of a file.

    Only the segment is read. Channels are averaged; another rate is resampled, and the result equals the
    same slice of the whole file resampled. A segment without sound is logged as a warning, once a file.

    Returns:
        float32 ``(n_frames,)``, in [-1, 1] for integer formats.

    Raises:
        FileNotFoundError, ValueError: as `read_and_hear`.
    """
    waveform, silence = read_and_hear(path, offset, n_frames)
    if silence:
        _warn_once(f"{path}: {silence}")
    return waveform


def read_and_hear(path, offset: int = 0, n_frames: int = -1) -> tuple[np.ndarray, str]:
    """What `read_audio` returns, and why it holds no speech (empty where it may).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not audio, holds no samples, or ends before the segment does; or the segment
            has a sample that is not finite or far above 1.
    """
    with _open(path) as file:
        length, rate, channels = _length(path, file), file.samplerate, file.channels
        available = resampled_length(length, rate, SAMPLE_RATE)
        if n_frames < 0:
            n_frames = available - offset
        if offset < 0 or n_frames <= 0 or offset + n_frames > available:
            raise ValueError(
                f"{path}: expected samples {offset} to {offset + n_frames} (at {SAMPLE_RATE} Hz), "
                f"found {available} samples"
            )
        common = math.gcd(rate, SAMPLE_RATE)
        old, new = rate // common, SAMPLE_RATE // common
        # whole periods of `old` file samples = `new` output samples keep the resampling filter in phase
        margin = 0 if old == new else -(-FILTER_REACH // min(old, new))
        first_period = max(0, offset // new - margin)
        last_period = -(-(offset + n_frames) // new) + margin
        start, stop = first_period * old, min(last_period * old, length)
        blocks, peaks = zip(*_blocks(path, file, start, stop))
    mixed = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    peak = max(peaks)
    silence = _silence(peak, peak if channels == 1 else _peak(mixed))
    skip = offset - first_period * new
    return resample(mixed, old, new)[skip : skip + n_frames], silence


def read_at_own_rate(path) -> tuple[np.ndarray, int]:
    """A whole file that is not silent: the mean of its channels, float32 ``(samples,)``, and its rate in Hz.

    Raises:
        FileNotFoundError, ValueError: as `read_and_hear`; or the file is silent.
    """
    with _open(path) as file:
        blocks, peaks = zip(*_blocks(path, file, 0, _length(path, file)))
        mixed = np.concatenate(blocks)
        silence = _silence(max(peaks), _peak(mixed))
        if silence:
            raise ValueError(f"{path}: {silence}")
        return mixed, file.samplerate


def write_audio(path, waveform: np.ndarray, rate: int) -> None:
    """Write float ``(samples,)`` as a 16-bit file of the kind that the path's ending names.

    Raises:
        OSError: the disk is full, or the file may not be so large (libsndfile would say nothing of the reason).
    """
    path = Path(path)
    content = io.BytesIO()
    soundfile.write(content, waveform, rate, subtype="PCM_16", format=path.suffix[1:].upper())
    path.write_bytes(content.getbuffer())


def _open(path) -> soundfile.SoundFile:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: no such audio file") from None
    if not stat.S_ISREG(found.st_mode):  # a FIFO would block until somebody writes to it
        kind = "folder" if stat.S_ISDIR(found.st_mode) else "special file (a pipe, a socket or a device)"
        raise ValueError(f"{path}: expected an audio file, found a {kind}")
    try:
        file = soundfile.SoundFile(os.fspath(path))
    except soundfile.SoundFileError as error:
        raise ValueError(
            f"{path}: expected an audio file, found {found.st_size} bytes that are not one ({error})"
        ) from None
    problem = _header_problem(file, found.st_size)
    if problem:
        file.close()
        raise ValueError(f"{path}: {problem}")
    return file


def _header_problem(file: soundfile.SoundFile, n_bytes: int) -> str:
    if file.frames <= 0:
        return "expected audio, found a file of 0 samples"
    if file.frames > n_bytes * MOST_SAMPLES_PER_BYTE:
        return f"damaged: its header promises {file.frames:,} samples, which {n_bytes:,} bytes cannot hold"
    if file.samplerate not in FILE_RATES:
        return (
            f"damaged: expected a sample rate of {FILE_RATES[0]:,} to {FILE_RATES[-1]:,} Hz in its header, "
            f"found {file.samplerate:,} Hz"
        )
    return ""


def _length(path, file: soundfile.SoundFile) -> int:
    """Samples at the file's own rate. An MP3's header counts padding that decoding takes away at the end."""
    if not file.subtype.startswith("MPEG"):
        return file.frames
    start, tail, reason = max(0, file.frames - MP3_TAIL), (), "found none there"
    try:
        file.seek(start)
        tail = file.read(MP3_TAIL, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        reason = str(error)
    if not len(tail):
        raise ValueError(
            f"{path}: truncated or damaged: expected about {file.frames} samples at {file.samplerate} Hz as its "
            f"header says, {reason}"
        )
    return start + len(tail)


def _blocks(path, file: soundfile.SoundFile, start: int, stop: int) -> Iterator[tuple[np.ndarray, float]]:
    """The mean of the channels, float32 ``(samples,)`` a block, and the peak of the block's loudest channel."""
    damaged = f"{path}: truncated or damaged: expected {file.frames} samples at {file.samplerate} Hz as its header says"
    try:
        file.seek(start)
        while start < stop:
            count = min(stop - start, max(1, BLOCK // file.channels))
            samples = file.read(count, dtype="float32", always_2d=True)
            if len(samples) < count:
                raise ValueError(f"{damaged}, found {start + len(samples)}")
            peak = _peak(samples)
            if not peak <= LOUDEST:  # so that NaN is caught too
                raise ValueError(f"{path}: {_scale_problem(samples, peak, start)}")
            start += count
            yield samples[:, 0] if file.channels == 1 else samples.mean(axis=1), peak
    except soundfile.SoundFileError as error:
        raise ValueError(f"{damaged}, found none at {start} to {stop} ({error})") from None


def _peak(samples: np.ndarray) -> float:
    """The largest absolute value; NaN if there is a NaN. No copy is made, as ``np.abs`` would."""
    return max(float(samples.max()), -float(samples.min()))


def _scale_problem(samples: np.ndarray, peak: float, start: int) -> str:
    finite = np.isfinite(samples).all(axis=1)
    if not finite.all():
        place = int(np.flatnonzero(~finite)[0])
        values = samples[place]
        return f"expected finite samples, found {values[~np.isfinite(values)][0]} at sample {start + place}"
    return (
        f"expected samples from -1 to 1, found a peak of {peak:,.0f}, as if 16-bit integers had been stored as "
        "floats; write a copy whose samples are divided by 32768"
    )


def _silence(peak: float, mixed_peak: float) -> str:
    if peak == 0:
        return "digital silence: every sample is zero"
    if mixed_peak < CANCELLED * peak:
        return "the channels cancel each other out: their mean is silent; write a copy of one channel"
    return ""


@lru_cache(maxsize=4096)
def _warn_once(message: str) -> None:
    # training reads a file in every epoch
    logger.warning(message)
