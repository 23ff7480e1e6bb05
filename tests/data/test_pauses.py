import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.data.pauses import FRAME, cut_at_pauses, cut_by_blocks

RATE = 16000


def noise(samples, level=0.1):
    return level * np.random.default_rng(samples).standard_normal(samples).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(samples=st.integers(0, 6 * RATE), max_seconds=st.floats(0.48, 5))
def test_pieces_cover_the_waveform_within_the_limits(samples, max_seconds):
    pieces = cut_at_pauses(noise(samples), max_seconds)
    assert pieces[0][0] == 0 and pieces[-1][1] == samples
    assert all(end == start for (_, end), (start, _) in zip(pieces, pieces[1:]))
    lengths = [end - start for start, end in pieces]
    assert max(lengths) <= max_seconds * RATE
    if len(pieces) > 1:
        assert min(lengths) >= int(max_seconds * RATE) // FRAME // 4 * FRAME


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(), max_seconds=st.floats(1, 3), speech=st.lists(st.floats(0.1, 1), min_size=1, max_size=8)
)
def test_cuts_lie_in_pauses_when_every_stretch_has_one(data, max_seconds, speech):
    # a pause at least every half of the limit, less the pause itself, is always in reach
    parts, silent = [], []
    for share in speech:
        talk = int(share * (max_seconds / 2 - 0.5) * RATE)
        pause = data.draw(st.integers(14 * FRAME, 20 * FRAME))
        level = data.draw(st.floats(0.001, 0.5))
        parts += [noise(talk, level), np.zeros(pause, np.float32)]
        silent += [np.zeros(talk, bool), np.ones(pause, bool)]
    waveform, silent = np.concatenate(parts), np.concatenate(silent)
    for _, end in cut_at_pauses(waveform, max_seconds)[:-1]:
        assert silent[end - 2 * FRAME : end + 2 * FRAME].all()


def test_a_cut_lies_in_background_noise_rather_than_in_quieter_gaps_of_speech():
    speech = noise(3 * RATE)
    speech[RATE + 8000 : RATE + 8000 + FRAME] = 0  # the closure of a plosive, 20 ms
    recording = np.concatenate([speech, noise(RATE // 2, 0.005), noise(2 * RATE)])
    [(_, cut), _] = cut_at_pauses(recording, 4.0)
    assert 3 * RATE < cut < 3.5 * RATE


@pytest.mark.parametrize("max_seconds", [-1, 0, 0.4])
def test_a_limit_without_room_for_a_pause_is_refused(max_seconds):
    with pytest.raises(ValueError, match=r"longest piece: found .* expected 0\.48 s or more"):
        cut_at_pauses(noise(RATE), max_seconds)


@pytest.mark.parametrize("seconds", [0.3, 3.0, 3.7, 11.0, 40.0])
def test_pieces_of_blocks_are_those_of_the_whole(seconds):
    waveform = np.random.default_rng(0).normal(size=round(seconds * 16000)).astype(np.float32)
    longest = []

    def read(start, samples):
        longest.append(samples)
        return waveform[start : start + samples]

    assert list(cut_by_blocks(read, len(waveform), 3.0)) == cut_at_pauses(waveform, 3.0)
    assert max(longest, default=0) <= 1.25 * 3.0 * 16000
