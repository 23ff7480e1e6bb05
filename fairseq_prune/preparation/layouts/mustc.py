"""Writes a speech translation corpus in the layout of MuST-C (Di Gangi et al. 2019, N19-1202).

ROOT/en-de/data/SPLIT/wav/*.wav          talks, 16-bit mono
ROOT/en-de/data/SPLIT/txt/SPLIT.yaml     one list item a segment: where it lies in which talk
ROOT/en-de/data/SPLIT/txt/SPLIT.{en,de}  transcript and translation, one line a segment
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Callable, NamedTuple, Optional, TypeVar

import numpy as np
import yaml
from tqdm import tqdm

from fairseq_prune.command_line import PlainParser
from fairseq_prune.data.audio import write_audio
from fairseq_prune.preparation.options import add_output, add_seed, whole_number
from fairseq_prune.text.lines import require_line, write_lines

SPLITS = ("train", "dev", "tst-COMMON")
PAIR = "en-de"  # the languages of every corpus that is built here
Text = TypeVar("Text")


class Utterance(NamedTuple):
    audio: np.ndarray  # float32 samples in [-1, 1], shape (samples,)
    source: str
    target: str


class Talk(NamedTuple):
    """The utterances of one speaker that share a wav."""

    speaker: str
    utterances: list[Utterance]


class SplitSize(NamedTuple):
    talks: int
    utterances: int
    speech_seconds: float


def seconds_range(name: str, bounds: Sequence[float]) -> tuple[float, float]:
    """Checks a (shortest, longest) option in seconds; raises `ValueError` naming the option."""
    shortest, longest = bounds
    if not 0 <= shortest <= longest:
        raise ValueError(f"{name} {shortest:g} {longest:g}: expected 0 <= shortest <= longest")
    return shortest, longest


def add_layout_arguments(parser: PlainParser) -> None:
    """The options that every corpus builder shares."""
    add_output(parser, f"folder that gets {PAIR}/data/SPLIT")
    parser.add_argument(
        "--utterances-per-talk",
        type=whole_number(1),
        default=10,
        metavar="N",
        help="utterances in one wav (%(default)s)",
    )
    add_range(parser, "--talk-pause", (0.3, 1.0), "silence around the utterances of a talk, in seconds")
    add_seed(parser, "equal seeds give equal corpora")


def add_range(parser: PlainParser, option: str, default: tuple, description: str) -> None:
    """An option of two numbers, a minimum and a maximum, of the type of its default."""
    low, high = default
    parser.add_argument(
        option,
        type=type(low),
        nargs=2,
        default=default,
        metavar=("MIN", "MAX"),
        help=f"{description} ({low} {high})",
    )


def make_talks(
    texts: Sequence[Text],
    speakers: Sequence[str],
    utterances_per_talk: int,
    speak: Callable[[Text, str], Utterance],
    title: str,
) -> Iterator[Talk]:
    """Yields the texts as talks, in order, the speakers taking turns; shows a progress bar of utterances."""
    with tqdm(total=len(texts), desc=title, unit=" utterances", mininterval=0.5) as progress:
        for number, start in enumerate(range(0, len(texts), utterances_per_talk)):
            speaker = speakers[number % len(speakers)]
            utterances = [speak(text, speaker) for text in texts[start : start + utterances_per_talk]]
            progress.update(len(utterances))
            yield Talk(speaker, utterances)


def write_split(
    data: Path,
    split: str,
    talks: Iterable[Talk],
    sample_rate: int,
    pause: tuple[float, float],
    rng: np.random.Generator,
) -> SplitSize:
    """Writes one split below data, a talk at a time.

    pause: the shortest and longest silence before, between and after a talk's utterances, in seconds.
    Raises `ValueError` for a text with a line break, or without any text.
    """
    wav_folder, txt_folder = data / split / "wav", data / split / "txt"
    wav_folder.mkdir(parents=True)
    txt_folder.mkdir()
    segments: list[dict[str, object]] = []
    sources: list[str] = []
    targets: list[str] = []
    speech = 0  # samples
    number = 0
    for number, talk in enumerate(talks, start=1):
        waveform, offsets = join_utterances(
            [utterance.audio for utterance in talk.utterances], sample_rate, pause, rng
        )
        name = f"{split}_{number:04d}.wav"  # unlike MuST-C's ted_N.wav the split is named: unique in a corpus
        write_audio(wav_folder / name, waveform, sample_rate)
        for utterance, offset in zip(talk.utterances, offsets):
            sources.append(_one_line(utterance.source))
            targets.append(_one_line(utterance.target))
            speech += len(utterance.audio)
            segments.append(
                {
                    "duration": round(len(utterance.audio) / sample_rate, 6),
                    "offset": round(int(offset) / sample_rate, 6),
                    "rW": len(utterance.source.split()),
                    "speaker_id": f"spk.{talk.speaker}",
                    "wav": name,
                }
            )
    source_language, target_language = PAIR.split("-")
    write_lines(txt_folder / f"{split}.{source_language}", sources)
    write_lines(txt_folder / f"{split}.{target_language}", targets)
    with open(txt_folder / f"{split}.yaml", "w", encoding="utf-8") as stream:
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        yaml.dump(segments, stream, dumper, default_flow_style=None, width=10**6, allow_unicode=True)
    return SplitSize(number, len(segments), speech / sample_rate)


def join_utterances(
    waveforms: Sequence[np.ndarray],
    sample_rate: int,
    pause: tuple[float, float],
    rng: np.random.Generator,
    edge: Optional[tuple[float, float]] = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Joins waveforms with a random silence before, between and after them.

    pause: (shortest, longest) in seconds; edge: the same before the first and after the last, by default as pause.
    Returns the samples, shape `(samples,)`, and where each waveform starts, in samples, shape `(waveforms,)`.
    """
    lengths = np.array([len(waveform) for waveform in waveforms])
    silences = rng.uniform(*pause, size=len(lengths) + 1)
    if edge is not None:
        silences[[0, -1]] = rng.uniform(*edge, size=2)
    silences = np.round(silences * sample_rate).astype(np.int64)
    offsets = np.cumsum(silences[:-1]) + np.cumsum(lengths) - lengths
    joined = np.zeros(lengths.sum() + silences.sum(), dtype=np.float32)
    for offset, waveform in zip(offsets, waveforms):
        joined[offset : offset + len(waveform)] = waveform
    return joined, offsets


def print_report(sizes: dict[str, SplitSize], columns: dict[str, dict[str, object]]) -> None:
    """Prints one line a split: its size, then the values that columns holds for each split by title."""
    titles = ["split", "talks", "utterances", "hours of speech", *columns]
    rows = [titles]
    for split in (split for split in SPLITS if split in sizes):
        size = sizes[split]
        row = [split, f"{size.talks:,}", f"{size.utterances:,}", f"{size.speech_seconds / 3600:.3f}"]
        rows.append(row + [str(values[split]) for values in columns.values()])
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _one_line(text: str) -> str:
    if not require_line(text, "a text").strip():
        raise ValueError(f"text {text!r}: expected one line of text")
    return text
