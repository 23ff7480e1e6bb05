"""Cutting long recordings at pauses."""

import numpy as np

FRAME = 320  # samples at 16 kHz: 20 ms


def cut_at_pauses(
    waveform: np.ndarray, max_seconds: float, min_seconds: float = 1.0, sample_rate: int = 16000
) -> list[tuple[int, int]]:
    """Cut a waveform into pieces of at most ``max_seconds``, each cut in the quietest place that allows it.

    Args:
        waveform: (samples,).
        max_seconds, min_seconds: longest piece; shortest one that a cut may leave before it.
        sample_rate: samples a second.

    Returns:
        (start, end) in samples of each piece; together they cover the waveform.

    Raises:
        ValueError: limits that leave no room for a cut.
    """
    longest, shortest = (int(seconds * sample_rate) // FRAME for seconds in (max_seconds, min_seconds))
    if longest <= shortest:
        raise ValueError(
            f"longest piece ({max_seconds} s) must be longer than the shortest ({min_seconds} s)"
        )
    frames = len(waveform) // FRAME
    energy = np.square(waveform[: frames * FRAME].reshape(frames, FRAME), dtype=np.float64).mean(1)
    # a pause is quiet for about 0.2 s; the ends are repeated so that they do not look quieter than they are
    width = 11
    smooth = np.convolve(np.pad(energy, width // 2, mode="edge"), np.ones(width) / width, mode="valid")
    pieces, start = [], 0
    while frames - start > longest:
        window = smooth[start + shortest : start + longest]
        cut = start + shortest + int(window.argmin())
        pieces.append((start * FRAME, cut * FRAME))
        start = cut
    pieces.append((start * FRAME, len(waveform)))
    return pieces
