"""Strings of digits, and how they are spoken with recordings of single digits."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

import numpy as np

from fairseq_prune.preparation.layouts.mustc import join_utterances
from fairseq_prune.preparation.synthesis.fsdd import Recording


def draw_strings(
    number: int, counts: tuple[int, int], avoid: Iterable[str], rng: np.random.Generator, unit: int = 2
) -> list[str]:
    """Draws digit strings of counts[0] to counts[1] units, all lengths alike often, none of them in `avoid`.

    unit: digits in a unit; 2 are pairs.
    Raises `ValueError` when `avoid` holds every string of a length.
    """
    avoid = set(avoid)
    shortest, longest = counts
    avoided_lengths = Counter(len(string) for string in avoid)
    for count in range(shortest, longest + 1):
        if avoided_lengths[unit * count] >= 10 ** (unit * count):
            raise ValueError(
                f"all strings of {count} pair(s) are taken by other splits: use more pairs there"
            )
    strings: list[str] = []
    while len(strings) < number:
        lengths = unit * rng.integers(shortest, longest + 1, size=number)
        digits = rng.integers(10, size=(number, unit * longest))
        drawn = ("".join(map(str, row[:length])) for row, length in zip(digits, lengths))
        strings += [string for string in drawn if string not in avoid]
    return strings[:number]


class DigitSpeaker:
    """Speaks a digit string by joining recordings of one speaker that are drawn at random."""

    def __init__(
        self,
        recordings: list[Recording],
        waveforms: dict[Path, np.ndarray],
        sample_rate: int,
        pause: tuple[float, float],
        edge: Optional[tuple[float, float]],
        rng: np.random.Generator,
    ) -> None:
        self.sample_rate, self.pause, self.edge, self.rng = sample_rate, pause, edge, rng
        self.takes: dict[tuple[str, int], list[np.ndarray]] = {}
        for recording in recordings:
            self.takes.setdefault((recording.speaker, recording.digit), []).append(waveforms[recording.path])

    def __call__(self, string: str, speaker: str) -> np.ndarray:
        """The waveform, `(samples,)`."""
        spoken = []
        for digit in map(int, string):
            takes = self.takes[speaker, digit]
            spoken.append(takes[self.rng.integers(len(takes))])
        audio, _ = join_utterances(spoken, self.sample_rate, self.pause, self.rng, self.edge)
        return audio
