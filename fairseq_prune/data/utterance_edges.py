"""The quiet at the edges of a corpus's utterances: a model trained on them expects as much of a piece."""

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from fairseq_prune.data.audio import SAMPLE_RATE, audio_info, read_and_hear
from fairseq_prune.data.manifest import Utterance
from fairseq_prune.data.speech_pieces import quiet_edges

MOST = 100  # utterances that are read, a second or two of work
SURROUNDINGS = SAMPLE_RATE  # samples of the recording before and after an utterance that are read with it


def typical_edges(
    utterances: Sequence[Utterance], audio_folder, seed: int, most: int = MOST
) -> Optional[tuple[int, int]]:
    """The medians of the quiet before and after the speech of some utterances, in samples.

    Args:
        utterances: rows of a manifest.
        audio_folder: where their relative audio paths start.
        seed: of which utterances are read.
        most: utterances that are read.

    Returns:
        not negative; None where no utterance holds speech.
    """
    chosen = np.random.default_rng(seed).permutation(len(utterances))[:most]
    found = [_edges(utterances[i], Path(audio_folder) / utterances[i].audio) for i in sorted(chosen)]
    found = [edges for edges in found if edges is not None]
    if not found:
        return None
    before, after = np.maximum(np.median(found, axis=0), 0).astype(int).tolist()
    return before, after


def _edges(utterance: Utterance, path: Path) -> Optional[tuple[int, int]]:
    start, end = utterance.offset, utterance.offset + utterance.n_frames
    first, last = max(start - SURROUNDINGS, 0), min(end + SURROUNDINGS, audio_info(path).n_samples)
    waveform, _ = read_and_hear(path, first, last - first)
    return quiet_edges(waveform, start - first, end - first)
