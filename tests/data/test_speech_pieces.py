"""Pieces of a recording: speech between pauses, as long as what a model has learned from."""

import numpy as np
import pytest

from fairseq_prune.data.speech_pieces import as_heard, quiet_edges, speech_pieces

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


# 5 ms of rounding, and as much of noise that is like speech by chance
EXACTLY = 0.01 * SECOND


@pytest.mark.parametrize("noise", [0.0, 0.0003, 0.003])
def test_edges_are_found_within_a_frame(noise):
    waveform, places = recording(-0.907, 2.213, -0.351, 1.604, -0.833, 1.311, -0.5, noise=noise)
    found = speech_pieces(waveform, longest=3.0, edges=(0, 0))
    np.testing.assert_allclose(found, places, atol=EXACTLY)


def test_soft_beginnings_and_ends_belong_to_speech():
    waveform, [(start, end)] = recording(-0.8, 1.0, -0.8, noise=1e-5)
    ramp = np.linspace(0, 1, 1280) ** 2  # 80 ms, below the threshold of loud speech at first
    waveform[start : start + 1280] *= ramp
    waveform[end - 1280 : end] *= ramp[::-1]
    [(first, last)] = speech_pieces(waveform, longest=3.0, edges=(0, 0))
    assert abs(first - start) <= EXACTLY and abs(last - end) <= EXACTLY


def test_pieces_have_the_edges_that_were_heard():
    waveform, places = recording(-0.9, 2.2, -0.8, 1.3, -0.5)
    heard = {"longest": 3.0, "typical": 1.0, "before": 0.1, "after": 0.3}
    found = speech_pieces(waveform, **as_heard(heard))
    expected = [(start - 0.1 * SECOND, end + 0.3 * SECOND) for start, end in places]
    np.testing.assert_allclose(found, expected, atol=EXACTLY)


def test_pieces_share_a_pause_that_is_shorter_than_their_edges():
    waveform, [(_, end), (start, _)] = recording(1.0, -0.4, 1.0)
    (_, first), (second, _) = speech_pieces(waveform, longest=1.5, edges=(0.5, 0.5))
    assert first == second
    assert first == pytest.approx((start + end) / 2, abs=EXACTLY)


def test_older_checkpoints_have_edges_of_40_ms_in_whole_frames():
    waveform, [(start, end)] = recording(-0.905, 2.205, -0.8)
    [(first, last)] = speech_pieces(waveform, **as_heard({"longest": 3.0, "typical": 1.0}))
    assert first == start // 320 * 320 - 640
    assert last == -(-end // 320) * 320 + 640


@pytest.mark.parametrize("before, after", [(0, 0), (1600, 0), (800, 4000), (-320, 160)])
def test_the_edges_of_an_utterance_are_measured(before, after):
    waveform, [(start, end)] = recording(-1.0, 1.5, -1.0, noise=0.0003)
    found = quiet_edges(waveform, start - before, end + after)
    np.testing.assert_allclose(found, (before, after), atol=EXACTLY)


def test_speech_that_runs_on_has_no_edge():
    waveform, [(start, end)] = recording(-1.0, 3.0, -1.0, noise=0.0003)
    assert quiet_edges(waveform, start + SECOND, end - SECOND) == (0, 0)


def test_an_utterance_without_speech_has_no_edges():
    waveform, [(_, end)] = recording(1.0, -2.0)
    assert quiet_edges(waveform, end + SECOND, len(waveform)) is None
    assert quiet_edges(np.zeros(8000, np.float32), 0, 8000) is None
