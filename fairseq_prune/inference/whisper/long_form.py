"""Recordings of any length: windows that follow the timestamps, or pieces that were cut at pauses."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Optional

import torch

from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.data.log_mel import HOP
from fairseq_prune.data.pauses import cut_by_blocks
from fairseq_prune.inference.whisper.recordings import Recording
from fairseq_prune.inference.whisper.segments import segments_of
from fairseq_prune.inference.whisper.windows import Heard, Listener, Window
from fairseq_prune.text.subtitles import Segment, Transcript

HOT = 0.5  # a text of a higher temperature is no good example for the next window
POOL = 4  # batches of pieces that are sorted by length together


class Progress(NamedTuple):
    """What has become known: seconds of audio that were heard, and with its number a recording that is finished."""

    seconds: float
    number: int = -1
    transcript: Optional[Transcript] = None


def read_window(
    recording: Recording, start: int, samples: int, language: Optional[str], prompt: Sequence[int] = ()
) -> Window:
    """A window of a recording, read now."""
    return Window(start, torch.from_numpy(recording.read(start, samples)), language, prompt)


def follow_timestamps(listener: Listener, recording: Recording) -> Generator[Window, Heard, Transcript]:
    """The published algorithm: each window begins where the timestamps of the one before end.

    Yields windows, wants to be sent what was heard in each, and returns the transcript.
    """
    options, transcript = listener.options, Transcript(seconds=recording.seconds)
    language = options.language
    before = listener.initial_prompt  # tokens that the next window may see
    frame, frames = 0, recording.samples // HOP
    while frame < frames:
        start = frame * HOP
        samples = min(listener.longest, recording.samples - start)
        window = read_window(recording, start, samples, language, before)
        heard = yield window
        language = language or heard.language
        segments, seconds = segments_of(listener, heard, window, len(transcript.segments))
        transcript.segments += segments
        before = [*before, *(token for segment in segments for token in segment.tokens)]
        if not options.condition_on_previous_text or heard.temperature > HOT:
            before = []
        frame += max(1, round(seconds * SAMPLE_RATE / HOP))
    transcript.language = language
    return transcript


def sequential(listener: Listener, recordings: Sequence[Recording]) -> Iterator[Progress]:
    """Transcripts by `follow_timestamps`, a window of each of some recordings at a time."""
    waiting = iter(range(len(recordings)))
    active: dict[int, tuple[Generator, Window]] = {}
    while True:
        for number in islice(waiting, listener.options.batch_size - len(active)):
            following = follow_timestamps(listener, recordings[number])
            try:
                active[number] = following, next(following)
            except StopIteration as end:  # shorter than a frame
                yield Progress(recordings[number].seconds, number, end.value)
        if not active:
            return
        heard = listener.hear([window for _, window in active.values()])
        for (number, (following, window)), one in zip(list(active.items()), heard):
            try:
                active[number] = following, following.send(one)
                yield Progress((active[number][1].start - window.start) / SAMPLE_RATE)
            except StopIteration as end:
                del active[number]
                yield Progress(recordings[number].seconds - window.start / SAMPLE_RATE, number, end.value)


class _Piece(NamedTuple):
    recording: int
    place: int  # among the pieces of its recording
    start: int
    samples: int
    is_last: bool


def _pieces(recordings: Sequence[Recording], max_seconds: float) -> Iterator[_Piece]:
    for number, recording in enumerate(recordings):
        cuts = cut_by_blocks(recording.read, recording.samples, max_seconds)
        for place, (start, end) in enumerate(cuts):
            yield _Piece(number, place, start, end - start, end == recording.samples)


def batched(listener: Listener, recordings: Sequence[Recording]) -> Iterator[Progress]:
    """Transcripts of pieces that were cut at pauses, pieces of similar length together."""
    options = listener.options
    longest = min(options.max_seconds, listener.longest / SAMPLE_RATE)
    pieces, size = _pieces(recordings, longest), options.batch_size
    languages: dict[int, str] = {}
    parts: dict[int, list[Optional[list[Segment]]]] = {}
    missing: dict[int, int] = {}
    while pool := list(islice(pieces, POOL * size)):
        for piece in pool:
            parts.setdefault(piece.recording, []).append(None)
            missing[piece.recording] = missing.get(piece.recording, 0) + 1
        ended = {piece.recording for piece in pool if piece.is_last} | {
            number for number in missing if number < pool[-1].recording
        }
        for batch in _batches(pool, size, languages, listener):
            windows = [
                read_window(
                    recordings[piece.recording],
                    piece.start,
                    piece.samples,
                    options.language or languages.get(piece.recording),
                    listener.initial_prompt,
                )
                for piece in batch
            ]
            for piece, window, heard in zip(batch, windows, listener.hear(windows)):
                number = piece.recording
                if heard.language:
                    languages.setdefault(number, heard.language)
                parts[number][piece.place], _ = segments_of(listener, heard, window, 0)
                missing[number] -= 1
                yield Progress(window.seconds)
        for number in sorted(number for number in ended if missing.get(number) == 0):
            segments = [segment for part in parts.pop(number) for segment in part]
            del missing[number]
            for place, segment in enumerate(segments):
                segment.id = place
            language = options.language or languages.pop(number, None)
            yield Progress(0.0, number, Transcript(segments, language, recordings[number].seconds))


def _batches(
    pool: Iterable[_Piece], size: int, languages: dict[int, str], listener: Listener
) -> Iterator[list[_Piece]]:
    """Batches of similar length, longest first; recordings whose language is not known begin with their first piece."""
    unknown = set()
    if listener.multilingual and listener.options.language is None:
        unknown = {piece.recording for piece in pool} - set(languages)
    first = [piece for piece in pool if piece.recording in unknown and piece.place == 0]
    others = [piece for piece in pool if not (piece.recording in unknown and piece.place == 0)]
    for group in (first, others):
        group.sort(key=lambda piece: -piece.samples)
        yield from (group[start : start + size] for start in range(0, len(group), size))
