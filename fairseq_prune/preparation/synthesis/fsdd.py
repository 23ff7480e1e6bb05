"""The recordings of the Free Spoken Digit Dataset: their names, their share among splits, their waveforms."""

import re
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from fairseq_prune.data.audio import read_at_own_rate, resample
from fairseq_prune.preparation.layouts.mustc import SPLITS
from fairseq_prune.preparation.synthesis.german_numbers import ENGLISH_DIGITS

FILE_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>.+)_(?P<index>\d+)\.wav")
OPTION = {"train": "train", "dev": "dev", "tst-COMMON": "test"}  # split: what its options begin with
TRIM_WINDOW = 0.01  # seconds


class Recording(NamedTuple):
    path: Path
    digit: int
    speaker: str
    index: int


def find_recordings(folder: Path) -> list[Recording]:
    """Lists the recordings of a folder by file name.

    Raises `FileNotFoundError` for a folder without wavs, `ValueError` for a wav whose name does not parse.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--fsdd {folder}: no such folder")
    recordings = []
    for path in sorted(folder.glob("*.wav")):
        match = FILE_NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path}: expected a name like 7_george_12.wav (digit, speaker, index)")
        recordings.append(Recording(path, int(match["digit"]), match["speaker"], int(match["index"])))
    if not recordings:
        raise FileNotFoundError(
            f"--fsdd {folder}: no recordings in it; expected wavs named like 7_george_12.wav"
        )
    return recordings


def parse_indices(option: str, text: str) -> set[int]:
    """Reads indices such as "0-4" or "0-4,7"; raises `ValueError` naming the option."""
    indices: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(f"{option} {text!r}: expected indices like 0-4 or 0-4,7")
        indices.update(range(first, last + 1))
    return indices


def split_recordings(
    recordings: list[Recording], speakers: dict[str, list[str]], indices: dict[str, Optional[set[int]]]
) -> dict[str, list[Recording]]:
    """Gives each split its recordings, by speakers and by indices (None: those of no other split).

    Raises `ValueError` for an unknown speaker, and for a recording that two splits would share.
    """
    known = sorted({recording.speaker for recording in recordings})
    taken = set().union(*(chosen for chosen in indices.values() if chosen is not None))
    parts: dict[str, list[Recording]] = {}
    for split in SPLITS:
        unknown = sorted(set(speakers[split]) - set(known))
        if unknown:
            raise ValueError(f"unknown speaker {unknown[0]!r}: the recordings are of {' '.join(known)}")
        parts[split] = [
            recording
            for recording in recordings
            if recording.speaker in speakers[split]
            and (
                recording.index not in taken if indices[split] is None else recording.index in indices[split]
            )
        ]
    for first, second in (("train", "dev"), ("train", "tst-COMMON"), ("dev", "tst-COMMON")):
        shared = set(parts[first]) & set(parts[second])
        if shared:
            raise ValueError(
                f"--{OPTION[first]}-indices and --{OPTION[second]}-indices overlap: both take index "
                f"{min(recording.index for recording in shared)}, of the same speakers"
            )
    return parts


def prepare_waveform(
    waveform: np.ndarray,
    rate: int,
    normalize: str = "none",
    level: float = 0.0,
    trim_db: Optional[float] = None,
) -> np.ndarray:
    """Trims and levels one recording: float32 samples, shape `(samples,)`, at `rate` Hz.

    normalize: none, peak or rms, to `level` dB below full scale (rms never beyond a peak of 1).
    trim_db: cut the edges that lie more than this many dB below the loudest 10 ms.
    """
    if trim_db is not None:
        window = max(1, round(TRIM_WINDOW * rate))
        windows = -(-len(waveform) // window)
        padded = np.pad(waveform, (0, windows * window - len(waveform)))
        power = np.square(padded.reshape(windows, window)).mean(axis=1)
        loud = np.flatnonzero(power >= power.max() * 10 ** (-trim_db / 10))
        waveform = waveform[loud[0] * window : (loud[-1] + 1) * window]
    peak = np.abs(waveform).max()
    if normalize == "none" or peak == 0:
        return waveform
    present = peak if normalize == "peak" else np.sqrt(np.square(waveform).mean())
    return waveform * min(10 ** (level / 20) / present, 1 / peak)


def read_waveform(path: Path, sample_rate: int, **preparation) -> np.ndarray:
    """Reads a recording as float32 samples, shape `(samples,)`, at `sample_rate` Hz, as `prepare_waveform` makes it.

    Raises `ValueError` for a file that is not audio, is empty or silent.
    """
    waveform, rate = read_at_own_rate(path)
    return resample(prepare_waveform(waveform, rate, **preparation), rate, sample_rate)


def check_digits(split: str, recordings: list[Recording]) -> list[str]:
    """Returns the speakers of a split; raises `ValueError` for one who lacks a digit there."""
    speakers = sorted({recording.speaker for recording in recordings})
    for speaker in speakers:
        missing = set(range(10)) - {each.digit for each in recordings if each.speaker == speaker}
        if missing:
            words = " ".join(ENGLISH_DIGITS[digit] for digit in sorted(missing))
            raise ValueError(f"{split}: {speaker} has no recording of {words} with an index of this split")
    return speakers
