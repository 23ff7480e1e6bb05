import pytest

from fairseq_prune.inference.whisper.segments import split_at_timestamps

T = 1000  # the id of 0.00


def at(seconds):
    return T + round(seconds * 50)


@pytest.mark.parametrize(
    "tokens, spans, advance",
    [
        # a pair ends a segment; what follows it was cut off, and is heard again
        ([T, 1, at(2), at(2.5), 2, 3], [(0, 2, [T, 1, at(2)])], 2),
        # a single timestamp at the end: nothing follows
        (
            [at(0.5), 1, at(2), at(2.5), 2, at(4)],
            [(0.5, 2, [at(0.5), 1, at(2)]), (2.5, 4, [at(2.5), 2, at(4)])],
            30,
        ),
        ([T, 1, 2, at(3)], [(0, 3, [T, 1, 2, at(3)])], 30),
        ([T, 1, 2], [(0, 30, [T, 1, 2])], 30),
        ([T, 1, at(2), at(2)], [(0, 2, [T, 1, at(2)])], 2),
        ([], [(0, 30, [])], 30),
    ],
)
def test_segments_end_where_the_timestamps_say(tokens, spans, advance):
    found, seconds = split_at_timestamps(tokens, T, 30)
    assert [tuple(span) for span in found] == spans
    assert seconds == pytest.approx(advance)


def test_without_timestamps_a_window_is_one_segment():
    found, seconds = split_at_timestamps([1, 2, 3], -1, 12.5)
    assert [tuple(span) for span in found] == [(0, 12.5, [1, 2, 3])] and seconds == 12.5
