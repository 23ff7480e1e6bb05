"""What quiet a corpus's utterances have at their edges."""

import numpy as np
import pytest
import soundfile

from fairseq_prune.data.manifest import Utterance
from fairseq_prune.data.utterance_edges import typical_edges

SECOND = 16000


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A folder with a talk: 20 stretches of noise of a second, with a second of quiet around each."""
    folder, rng = tmp_path_factory.mktemp("talk"), np.random.default_rng(0)
    waveform = rng.normal(size=41 * SECOND) * 1e-4
    for place in range(20):
        waveform[(2 * place + 1) * SECOND : (2 * place + 2) * SECOND] += 0.1 * rng.normal(size=SECOND)
    soundfile.write(folder / "talk.flac", waveform, SECOND)
    return folder


def utterances(before, after):
    return [
        Utterance(
            str(place),
            "talk.flac",
            (2 * place + 1) * SECOND - before,
            SECOND + before + after,
            "one",
            "eins",
            "speaker",
        )
        for place in range(20)
    ]


@pytest.mark.parametrize("before, after", [(0, 0), (1600, 4800)])
def test_edges_are_those_of_the_segments(talk, before, after):
    found = typical_edges(utterances(before, after), talk, seed=1, most=5)
    np.testing.assert_allclose(found, (before, after), atol=160)


def test_segments_that_cut_speech_off_have_no_edges(talk):
    assert typical_edges(utterances(-800, -800), talk, seed=1) == (0, 0)


def test_edges_are_medians(talk):
    rows = utterances(0, 1600)[:11] + utterances(4800, 0)[11:]
    found = typical_edges(rows, talk, seed=1)
    np.testing.assert_allclose(found, (0, 1600), atol=160)


def test_a_seed_chooses_the_utterances(talk):
    mixed = [utterances(place * 480, 0)[place] for place in range(20)]
    found = [typical_edges(mixed, talk, seed=seed, most=3) for seed in range(6)]
    assert len(set(found)) > 1
    assert typical_edges(mixed, talk, seed=2, most=3) == found[2]


def test_a_corpus_without_speech_has_no_edges(tmp_path):
    soundfile.write(tmp_path / "talk.flac", np.zeros(4 * SECOND), SECOND)
    assert typical_edges(utterances(0, 0)[:1], tmp_path, seed=1) is None
