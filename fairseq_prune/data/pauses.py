"""Cutting long recordings at pauses."""

from collections.abc import Callable, Iterator

import numpy as np

FRAME = 320  # samples at 16 kHz: 20 ms
AROUND = 5  # frames on each side of a cut that should be quiet too: 0.22 s in all, a short pause


def cut_at_pauses(waveform: np.ndarray, max_seconds: float) -> list[tuple[int, int]]:
    """Cut a recording into pieces of at most ``max_seconds``.

    Each cut lies where the 0.22 s around it are quietest, chosen from a stretch half as long as ``max_seconds``;
    no piece is shorter than a quarter of ``max_seconds`` (in whole frames of 20 ms).

    Args:
        waveform: (samples,) at 16 kHz.
        max_seconds: longest piece, 0.48 or more.

    Returns:
        (start, end) in samples of each piece; together they cover the waveform.

    Raises:
        ValueError: ``max_seconds`` is too short to look for a pause.
    """
    longest = int(max_seconds * 16000) // FRAME
    shortest = longest // 4
    if shortest <= AROUND:
        least = 4 * (AROUND + 1) * FRAME / 16000
        raise ValueError(f"longest piece: found {max_seconds} s, expected {least} s or more")
    frames = len(waveform) // FRAME
    energy = np.square(waveform[: frames * FRAME].reshape(frames, FRAME), dtype=np.float64).mean(1)
    pieces, start = [], 0
    while len(waveform) > (start + longest) * FRAME:
        last = min(start + longest, frames - shortest)
        first = last - longest // 2
        reachable = energy[first - AROUND : last + AROUND + 1]
        cut = first + int(np.convolve(reachable, np.ones(2 * AROUND + 1), mode="valid").argmin())
        pieces.append((start * FRAME, cut * FRAME))
        start = cut
    pieces.append((start * FRAME, len(waveform)))
    return pieces


def cut_by_blocks(
    read: Callable[[int, int], np.ndarray], samples: int, max_seconds: float
) -> Iterator[tuple[int, int]]:
    """The pieces of `cut_at_pauses`, for a recording of which only a block is in memory.

    Args:
        read: samples (n,) from the arguments start and n.
        samples: of the recording.
        max_seconds: longest piece.

    Yields:
        (start, end) in samples of each piece.
    """
    longest = int(max_seconds * 16000) // FRAME
    block = (longest + longest // 4) * FRAME  # a cut depends on no more
    start = 0
    while samples - start > longest * FRAME:
        length = min(block, samples - start)
        pieces = [
            (start + first, start + last) for first, last in cut_at_pauses(read(start, length), max_seconds)
        ]
        if start + length == samples:
            yield from pieces
            return
        yield pieces[0]
        start = pieces[0][1]
    yield start, samples
