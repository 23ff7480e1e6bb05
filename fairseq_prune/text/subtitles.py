"""Transcripts with times, and the files that players and editors read: txt, tsv, srt, vtt, json.

json has the fields that openai/whisper writes.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Optional


@dataclass
class Word:
    """A word as it stands in the text, with the space before it; start and end in seconds."""

    word: str
    start: float
    end: float
    probability: float


@dataclass
class Segment:
    """A stretch of a transcript; what a kind of model does not know of it is None.

    id: its number. seek: where the window began that it was read in, in frames of 10 ms. start, end: seconds. tokens:
    ids with timestamps. temperature: of sampling, 0 for the likeliest text. avg_logprob: mean log probability of the
    window's tokens. compression_ratio: of the window's text, high for one that repeats itself. no_speech_prob:
    probability that nobody speaks.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: Optional[list[int]] = None
    temperature: Optional[float] = None
    avg_logprob: Optional[float] = None
    compression_ratio: Optional[float] = None
    no_speech_prob: Optional[float] = None
    words: Optional[list[Word]] = None


@dataclass
class Transcript:
    """What was said in a recording: segments in order, the language where it is known, the length in seconds."""

    segments: list[Segment] = field(default_factory=list)
    language: Optional[str] = None
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The texts of all segments, which bring their own spaces."""
        return "".join(segment.text for segment in self.segments).strip()


def clock(seconds: float, hours: bool = True, point: str = ".") -> str:
    """Hours, minutes, seconds and milliseconds: 00:01:02.500; the hours only where asked for or needed.

    Raises:
        ValueError: the time is negative.
    """
    if seconds < 0:
        raise ValueError(f"expected a time of 0 s or more, found {seconds}")
    rest, milliseconds = divmod(round(1000 * seconds), 1000)
    rest, whole = divmod(rest, 60)
    hour, minute = divmod(rest, 60)
    before = f"{hour:02d}:" if hours or hour else ""
    return f"{before}{minute:02d}:{whole:02d}{point}{milliseconds:03d}"


def as_txt(transcript: Transcript) -> str:
    """A line a segment."""
    return "".join(f"{segment.text.strip()}\n" for segment in transcript.segments)


def as_tsv(transcript: Transcript) -> str:
    """Start and end in milliseconds, and the text."""
    rows = ["start\tend\ttext\n"]
    for segment in transcript.segments:
        text = " ".join(segment.text.split())
        rows.append(f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{text}\n")
    return "".join(rows)


def as_srt(transcript: Transcript) -> str:
    """SubRip."""
    return "".join(
        f"{number}\n{clock(part.start, point=',')} --> {clock(part.end, point=',')}\n{_caption(part)}\n\n"
        for number, part in enumerate(transcript.segments, start=1)
    )


def as_vtt(transcript: Transcript) -> str:
    """WebVTT."""
    captions = (
        f"{clock(part.start, hours=False)} --> {clock(part.end, hours=False)}\n{_caption(part)}\n\n"
        for part in transcript.segments
    )
    return "WEBVTT\n\n" + "".join(captions)


def as_json(transcript: Transcript) -> str:
    """An object with text, segments and language; a segment has the fields that are known."""

    def known(fields):
        return {name: value for name, value in fields if value is not None}

    segments = [asdict(segment, dict_factory=known) for segment in transcript.segments]
    content = {"text": transcript.text, "segments": segments, "language": transcript.language}
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _caption(segment: Segment) -> str:
    """One line, without the arrow that separates times."""
    return " ".join(segment.text.split()).replace("-->", "->")


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": as_txt,
    "tsv": as_tsv,
    "srt": as_srt,
    "vtt": as_vtt,
    "json": as_json,
}


def split_into_captions(segment: Segment, longest: int = 84, pause: float = 0.8) -> Sequence[Segment]:
    """A segment with words as captions that fit on a screen: cut at pauses, and where a caption gets too long.

    Args:
        longest: characters of a caption; 84 are two lines.
        pause: seconds of silence that a caption does not reach over.
    """
    captions: list[list[Word]] = []
    for word in segment.words or []:
        now = captions[-1] if captions else None
        text = sum(len(other.word) for other in now) if now else 0
        if now is None or word.start - now[-1].end > pause or text + len(word.word) > longest:
            captions.append([])
        captions[-1].append(word)
    if len(captions) < 2:
        return [segment]
    return [
        Segment(
            **{
                **vars(segment),
                "start": words[0].start,
                "end": words[-1].end,
                "text": "".join(word.word for word in words),
                "words": words,
            }
        )
        for words in captions
    ]
