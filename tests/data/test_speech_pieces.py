"""Pieces of a recording: speech between pauses, as long as what a model has learned from."""

import numpy as np
import pytest

from fairseq_prune.data.speech_pieces import speech_pieces

SECOND = 16000


def recording(*stretches, noise=0.0, seed=0):
    """Noise of level 0.1 for "speech" of so many seconds, quiet for the negative ones; and the places of speech."""
    rng, parts, places, at = np.random.default_rng(seed), [], [], 0
    for seconds in stretches:
        n = round(abs(seconds) * SECOND)
        parts.append(rng.normal(size=n) * (0.1 if seconds > 0 else noise))
        if seconds > 0:
            places.append((at, at + n))
        at += n
    return np.concatenate(parts).astype(np.float32), places


@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01])
def test_sentences_between_pauses_are_pieces(noise):
    waveform, places = recording(-0.9, 2.2, -0.35, 1.6, -0.8, 1.3, -0.5, noise=noise)
    found = speech_pieces(waveform, longest=3.0, typical=1.7)
    assert len(found) == 3
    np.testing.assert_allclose(found, places, atol=0.07 * SECOND)


def test_short_neighbours_are_joined_up_to_the_typical_length():
    waveform, places = recording(0.5, -0.3, 0.5, -0.3, 2.0, noise=0.001)
    found = speech_pieces(waveform, longest=3.0, typical=1.5)
    np.testing.assert_allclose(found, [(places[0][0], places[1][1]), places[2]], atol=0.07 * SECOND)


def test_long_speech_is_cut_and_each_piece_is_trimmed():
    waveform, _ = recording(2.5, -0.15, 2.5, -0.15, 2.5, noise=0.0005)
    found = speech_pieces(waveform, longest=3.0)
    assert all(end - start <= 3.0 * SECOND for start, end in found)
    assert sum(end - start for start, end in found) >= 7.5 * SECOND
    assert all(end <= start for (_, end), (start, _) in zip(found, found[1:]))


@pytest.mark.parametrize("waveform", [np.zeros(0, np.float32), np.zeros(30_000, np.float32)])
def test_silence_has_no_pieces(waveform):
    assert speech_pieces(waveform, longest=3.0) == []


def test_a_steady_sound_is_one_piece():
    assert speech_pieces(np.full(20_000, 0.1, np.float32), longest=3.0) == [(0, 20_000)]


def test_a_steady_tone_is_one_piece():
    tone = 0.3 * np.sin(2 * np.pi * 510 * np.arange(2 * SECOND) / SECOND)
    assert speech_pieces(tone.astype(np.float32), longest=3.0) == [(0, 2 * SECOND)]
