"""From the tokens of a window to segments of a transcript, and where the next window begins."""

from collections.abc import Sequence
from typing import NamedTuple

from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.data.log_mel import HOP
from fairseq_prune.inference.whisper.rules import TIMESTAMP_SECONDS
from fairseq_prune.inference.whisper.windows import Heard, Listener, Window
from fairseq_prune.text.subtitles import Segment, Word
from fairseq_prune.text.words import split_words


class Span(NamedTuple):
    """Tokens, timestamps included, with start and end in seconds of the window."""

    start: float
    end: float
    tokens: list[int]


def split_at_timestamps(tokens: Sequence[int], first: int, seconds: float) -> tuple[list[Span], float]:
    """The segments of a window as its timestamps have them, as in openai/whisper.

    Two timestamps in a row end one segment and begin the next. After the last such pair speech may have been cut off:
    the next window begins there, so that it is heard whole. A single timestamp at the end says that nothing follows.

    Args:
        tokens: that the decoder wrote.
        first: id of the timestamp 0.00; -1 where it writes none.
        seconds: of audio in the window.

    Returns:
        the segments, and after how many seconds of this window the next one begins.
    """
    is_time = [first >= 0 and token >= first for token in tokens]

    def time(place: int) -> float:
        return (tokens[place] - first) * TIMESTAMP_SECONDS

    borders = [place for place in range(1, len(tokens)) if is_time[place - 1] and is_time[place]]
    ends_alone = is_time[-2:] == [False, True]
    if not borders:
        end = seconds
        stamps = [place for place, stamped in enumerate(is_time) if stamped]
        if stamps and tokens[stamps[-1]] != first:
            end = time(stamps[-1])
        return [Span(0.0, end, list(tokens))], seconds
    begins = [0, *borders]
    if ends_alone:
        borders = [*borders, len(tokens)]
    spans = [Span(time(begin), time(end - 1), list(tokens[begin:end])) for begin, end in zip(begins, borders)]
    return spans, seconds if ends_alone else time(borders[-1] - 1)


def segments_of(listener: Listener, heard: Heard, window: Window, number: int) -> tuple[list[Segment], float]:
    """The segments of a window, and after how many seconds of it the next one begins.

    Args:
        number: of the first segment.
    """
    if heard.silent:
        return [], window.seconds
    spans, advance = split_at_timestamps(heard.tokens, listener.first_timestamp, window.seconds)
    offset, segments, place = window.start / SAMPLE_RATE, [], 0
    for span in spans:
        text = listener.tokenizer.decode(span.tokens)
        spoken = [token for token in span.tokens if token < listener.text_tokens]
        words = _words(listener, heard, spoken, place, offset) if len(heard.starts) else None
        place += len(spoken)
        if span.start == span.end or not text.strip():
            continue
        start, end = offset + span.start, offset + min(span.end, window.seconds)
        segments.append(
            Segment(
                id=number + len(segments),
                seek=window.start // HOP,
                start=words[0].start if words else round(start, 3),
                end=words[-1].end if words else round(end, 3),
                text=text,
                tokens=span.tokens,
                temperature=heard.temperature,
                avg_logprob=heard.avg_logprob,
                compression_ratio=heard.compression_ratio,
                no_speech_prob=heard.no_speech_prob,
                words=words,
            )
        )
    return segments, advance


def _words(listener: Listener, heard: Heard, tokens: Sequence[int], place: int, offset: float) -> list[Word]:
    """The words of tokens of which the first is the text's token number ``place``; times are of the recording."""
    words = []
    for group in split_words(listener.tokenizer, tokens, heard.language or "en"):
        after = place + len(group)
        probability = sum(heard.probabilities[place:after]) / len(group)
        start, end = offset + heard.starts[place], offset + heard.starts[after]
        words.append(
            Word(listener.tokenizer.decode(group), round(start, 3), round(end, 3), round(probability, 4))
        )
        place = after
    return words
