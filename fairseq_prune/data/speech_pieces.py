"""Cutting recordings into pieces like those that a model has learned from: speech between pauses."""

from typing import Any, Optional

import numpy as np

from fairseq_prune.data.pauses import FRAME, cut_at_pauses

SECOND = 16000  # samples
# dB below the loud frames of a recording, where speech ends: SHARE of the way to its quiet frames, within bounds
LEAST_RANGE, RANGE = 8.0, 35.0
SHARE = 0.6
SHORTEST_PIECE = 0.48  # seconds, below which there is no looking for a pause
SHORTEST = 3  # frames: what is shorter is a click
# speech begins and ends softly: its edges are sought in steps of 5 ms, up to 0.1 s outwards, where the level comes
# within RISE dB of the quiet frames
STEP, REACH, RISE = FRAME // 4, 20, 6.0
AROUND = 0.04  # seconds that are left around speech, in whole frames, where the edges heard in training are unknown


def speech_pieces(
    waveform: np.ndarray,
    longest: float,
    typical: float = 0.0,
    pause: float = 0.25,
    edges: Optional[tuple[float, float]] = None,
) -> list[tuple[int, int]]:
    """Find the pieces of a recording that hold speech, each as long as what a model has learned from.

    A piece ends at a pause, and is trimmed to speech. Neighbours are joined while they are together not longer than
    ``typical``. A piece that would be longer than ``longest`` is cut where it is quietest.

    Args:
        waveform: (samples,) at 16 kHz.
        longest, typical: seconds of a piece.
        pause: seconds of quiet that end a piece.
        edges: seconds of quiet before and after the speech of a piece, as `quiet_edges` measures them in the
            utterances that the model has learned from; None: 0.04 s in whole frames of 20 ms.

    Returns:
        (start, end) in samples of each piece, in order; none of a recording without speech.

    Raises:
        ValueError: ``longest`` is too short to look for a pause.
    """
    pieces = []
    for start, end in _join(_speech(waveform, pause, edges), typical):
        if end - start <= longest * SECOND:
            pieces.append((start, end))
            continue
        for first, last in cut_at_pauses(waveform[start:end], longest):
            inner = _speech(waveform[start + first : start + last], pause, edges)
            if inner:
                pieces.append((start + first + inner[0][0], start + first + inner[-1][1]))
    return pieces


def as_heard(heard: dict[str, float], longest: Optional[float] = None) -> dict[str, Any]:
    """Arguments of `speech_pieces` for a model.

    Args:
        heard: of its training's utterances, in seconds: the "longest", a "typical" one, and, except in older
            checkpoints, the quiet "before" and "after" the speech of one.
        longest: another bound, in seconds.
    """
    return {
        "longest": longest or max(heard["longest"], SHORTEST_PIECE),
        "typical": min(heard["typical"], longest or heard["typical"]),
        "edges": (heard["before"], heard["after"]) if "before" in heard else None,
    }


def quiet_edges(waveform: np.ndarray, start: int, end: int, pause: float = 0.25) -> Optional[tuple[int, int]]:
    """How much quiet an utterance has before and after its speech.

    Args:
        waveform: (samples,) at 16 kHz: the utterance, and some of the recording before and after it.
        start, end: where the utterance lies in it, in samples.
        pause: seconds of quiet that end speech.

    Returns:
        samples before and after; negative where the utterance begins after its first sound, 0 where its speech is one
        with that of its neighbour. None without speech.
    """
    spans = [span for span in _speech(waveform, pause, (0, 0)) if span[0] < end and span[1] > start]
    if not spans:
        return None
    before, after = spans[0][0] - start, end - spans[-1][1]
    return tuple(edge if edge >= -REACH * STEP else 0 for edge in (before, after))


def _level(waveform: np.ndarray, step: int) -> np.ndarray:
    """The level of each ``step`` samples in dB; -100 is digital silence."""
    steps = -(-len(waveform) // step)
    padded = np.pad(waveform, (0, steps * step - len(waveform))).astype(np.float64)
    return 10 * np.log10(np.maximum(np.square(padded.reshape(steps, step)).mean(1), 1e-10))


def _speech(
    waveform: np.ndarray, pause: float, edges: Optional[tuple[float, float]]
) -> list[tuple[int, int]]:
    """(start, end) in samples of each stretch of speech between pauses, with its edges."""
    if not waveform.any():
        return []
    level = _level(waveform, FRAME)
    quiet, loud = np.percentile(level, [5, 95])
    threshold = loud - np.clip(SHARE * (loud - quiet), LEAST_RANGE, RANGE)
    changes = np.flatnonzero(np.diff(level >= threshold, prepend=False, append=False)).reshape(-1, 2)
    changes = changes[changes[:, 1] - changes[:, 0] >= SHORTEST]
    if not len(changes):
        return []
    apart = changes[1:, 0] - changes[:-1, 1] >= pause * SECOND / FRAME
    starts = changes[np.concatenate([[True], apart]), 0] * FRAME
    ends = changes[np.concatenate([apart, [True]]), 1] * FRAME
    if edges is None:
        before = after = AROUND
    else:
        before, after = edges
        soft = _level(waveform, STEP) >= min(quiet + RISE, threshold)
        starts = np.array([_onset(soft, start // STEP) for start in starts]) * STEP
        backwards = soft[::-1]
        ends = (len(soft) - np.array([_onset(backwards, len(soft) - end // STEP) for end in ends])) * STEP
    middles = (ends[:-1] + starts[1:]) // 2
    starts = np.maximum(starts - round(before * SECOND), np.concatenate([[0], middles]))
    ends = np.minimum(ends + round(after * SECOND), np.concatenate([middles, [len(waveform)]]))
    return list(zip(starts.tolist(), ends.tolist()))


def _onset(soft: np.ndarray, start: int) -> int:
    """Where speech begins whose first loud frame is at ``start``, in steps: after the quiet before it, or within it."""
    within = soft[max(start, 0) : start + FRAME // STEP]
    if not within[:1].all():
        return start + int(within.argmax())
    first = max(start - REACH, 0)
    below = np.flatnonzero(~soft[first:start])
    return first + int(below[-1]) + 1 if len(below) else first


def _join(pieces: list[tuple[int, int]], typical: float) -> list[tuple[int, int]]:
    joined = pieces[:1]
    for start, end in pieces[1:]:
        if end - joined[-1][0] <= typical * SECOND:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
