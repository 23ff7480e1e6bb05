"""Cutting recordings into pieces like those that a model has learned from: speech between pauses."""

import numpy as np

from fairseq_prune.data.pauses import FRAME, cut_at_pauses

SECOND = 16000  # samples
# dB below the loud frames of a recording, where speech ends: SHARE of the way to its quiet frames, within bounds
LEAST_RANGE, RANGE = 8.0, 35.0
SHARE = 0.6
SHORTEST = 3  # frames: what is shorter is a click


def speech_pieces(
    waveform: np.ndarray, longest: float, typical: float = 0.0, pause: float = 0.25, margin: float = 0.04
) -> list[tuple[int, int]]:
    """Find the pieces of a recording that hold speech, each as long as what a model has learned from.

    A piece ends at a pause, and is trimmed to speech. Neighbours are joined while they are together not longer than
    ``typical``. A piece that would be longer than ``longest`` is cut where it is quietest.

    Args:
        waveform: (samples,) at 16 kHz.
        longest, typical: seconds of a piece.
        pause: seconds of quiet that end a piece.
        margin: seconds that are left around speech.

    Returns:
        (start, end) in samples of each piece, in order; none of a recording without speech.

    Raises:
        ValueError: ``longest`` is too short to look for a pause.
    """
    pieces = []
    for start, end in _join(_speech(waveform, pause, margin), typical):
        if end - start <= longest * SECOND:
            pieces.append((start, end))
            continue
        for first, last in cut_at_pauses(waveform[start:end], longest):
            inner = _speech(waveform[start + first : start + last], pause, margin)
            if inner:
                pieces.append((start + first + inner[0][0], start + first + inner[-1][1]))
    return pieces


def _speech(waveform: np.ndarray, pause: float, margin: float) -> list[tuple[int, int]]:
    """(start, end) in samples of each stretch of speech between pauses."""
    frames = -(-len(waveform) // FRAME)
    padded = np.pad(waveform, (0, frames * FRAME - len(waveform))).astype(np.float64)
    power = np.square(padded.reshape(frames, FRAME)).mean(1)
    if not power.any():
        return []
    level = 10 * np.log10(np.maximum(power, 1e-10))
    quiet, loud = np.percentile(level, [5, 95])
    spoken = level >= loud - np.clip(SHARE * (loud - quiet), LEAST_RANGE, RANGE)
    edges = np.flatnonzero(np.diff(spoken, prepend=False, append=False)).reshape(-1, 2)
    edges = edges[edges[:, 1] - edges[:, 0] >= SHORTEST]
    if not len(edges):
        return []
    apart = edges[1:, 0] - edges[:-1, 1] >= pause * SECOND / FRAME
    starts = edges[np.concatenate([[True], apart]), 0] * FRAME
    ends = edges[np.concatenate([apart, [True]]), 1] * FRAME
    around = round(margin * SECOND)
    starts, ends = np.maximum(starts - around, 0), np.minimum(ends + around, len(waveform))
    return list(zip(starts.tolist(), ends.tolist()))


def _join(pieces: list[tuple[int, int]], typical: float) -> list[tuple[int, int]]:
    joined = pieces[:1]
    for start, end in pieces[1:]:
        if end - joined[-1][0] <= typical * SECOND:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
