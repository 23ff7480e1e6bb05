import json
import re

import pytest

from fairseq_prune.text.subtitles import FORMATS, Segment, Transcript, Word, clock, split_into_captions

SPOKEN = Transcript(
    [
        Segment(0, 0, 0.0, 2.5, " The quick --> fox", tokens=[1, 2], temperature=0.0, avg_logprob=-0.25),
        Segment(1, 250, 3661.0, 3662.04, " jumps\tover."),
    ],
    language="en",
    seconds=3663.0,
)


@pytest.mark.parametrize(
    "seconds, hours, expected",
    [
        (0, True, "00:00:00.000"),
        (62.5, False, "01:02.500"),
        (3600, False, "01:00:00.000"),
        (59.9996, True, "00:01:00.000"),
    ],
)
def test_clock(seconds, hours, expected):
    assert clock(seconds, hours) == expected


def test_there_is_no_time_before_the_beginning():
    with pytest.raises(ValueError, match="expected a time of 0 s or more, found -1"):
        clock(-1)


def test_text_is_a_line_a_segment():
    assert FORMATS["txt"](SPOKEN) == "The quick --> fox\njumps\tover.\n"
    assert SPOKEN.text == "The quick --> fox jumps\tover."


def test_tsv_has_milliseconds_and_no_tab_in_a_text():
    lines = FORMATS["tsv"](SPOKEN).splitlines()
    assert lines == ["start\tend\ttext", "0\t2500\tThe quick --> fox", "3661000\t3662040\tjumps over."]


def test_srt_is_numbered_with_commas():
    expected = "1\n00:00:00,000 --> 00:00:02,500\nThe quick -> fox\n\n2\n01:01:01,000 --> 01:01:02,040\njumps over.\n\n"
    assert FORMATS["srt"](SPOKEN) == expected


def test_vtt_has_its_header_and_one_arrow_a_caption():
    text = FORMATS["vtt"](SPOKEN)
    assert text.startswith("WEBVTT\n\n00:00.000 --> 00:02.500\n") and len(re.findall("-->", text)) == 2


def test_json_holds_what_is_known():
    content = json.loads(FORMATS["json"](SPOKEN))
    assert content["language"] == "en" and content["text"] == SPOKEN.text
    first, second = content["segments"]
    assert first["tokens"] == [1, 2] and first["avg_logprob"] == -0.25 and first["end"] == 2.5
    assert set(second) == {"id", "seek", "start", "end", "text"}


def words(*rows):
    return [Word(f" {text}", start, end, 1.0) for text, start, end in rows]


def test_captions_end_at_pauses_and_when_they_are_long():
    segment = Segment(0, 0, 0, 10, " a b c", words=words(("a", 0.5, 1), ("b", 1, 1.5), ("c", 4, 5)))
    first, second = split_into_captions(segment)
    assert (first.start, first.end, first.text) == (0.5, 1.5, " a b")
    assert (second.start, second.end, second.text) == (4, 5, " c")
    assert [part.text for part in split_into_captions(segment, longest=2, pause=9)] == [" a", " b", " c"]


def test_a_segment_without_words_stays_whole():
    assert split_into_captions(SPOKEN.segments[0]) == [SPOKEN.segments[0]]
