"""What each task reads: the writers of `speech`."""

import argparse
from pathlib import Path
from typing import NamedTuple

from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.data.labelled_audio import Labelled, letters
from fairseq_prune.data.manifest import Utterance, write_manifest
from fairseq_prune.data.waveform_manifest import write_waveform_manifest
from fairseq_prune.preparation.layouts.slu_texts import write_labels
from fairseq_prune.preparation.processes import worker_processes
from fairseq_prune.preparation.recognition import write_recognition
from fairseq_prune.preparation.vocabularies import (
    load_given,
    make_vocabularies,
    print_vocabularies,
    write_config,
)
from fairseq_prune.text.meanings import parse

# fields that a row must have; of several in brackets, one
NEEDED = {
    "speech_translation": [("audio",), ("translation",)],
    "audio_finetuning": [("audio",), ("text",)],
    "spoken_language_understanding": [("audio",), ("parse", "text")],
    "ssl_distillation": [("audio",)],
}


class Spoken(NamedTuple):
    """An utterance of a table: ``where`` it stands, its file (absolute), and samples at 16 kHz (-1: to the end)."""

    where: str
    id: str
    audio: str
    offset: int
    n_samples: int
    speaker: str
    text: str
    translation: str
    parse: str


class Segment(NamedTuple):
    """An utterance whose audio was checked: a path from the root of its split, and samples at 16 kHz."""

    row: Spoken
    path: str
    offset: int
    n_samples: int


Roots = dict[str, Path]
Splits = dict[str, list[Segment]]


def write_translation(args: argparse.Namespace, folder: Path, roots: Roots, splits: Splits) -> None:
    """Manifests, vocabularies of the split train, and config.yaml.

    Raises:
        ValueError: there is no split train, and no --spm-model.
    """
    if "train" not in splits and args.spm_model is None:
        raise ValueError(
            f"vocabularies are trained on train, found only {', '.join(splits)}; give --spm-model"
        )
    utterances = {
        split: [_utterance(roots[split], segment, segment.row.translation) for segment in segments]
        for split, segments in splits.items()
    }
    _write_manifests(folder, utterances)
    given = load_given(args)
    with worker_processes(3) as pool:  # one for each vocabulary
        vocabularies = make_vocabularies(args, given, utterances.get("train", []), folder, pool)
    write_config(folder, next(iter(roots.values())), vocabularies)
    print_vocabularies(vocabularies)


def write_labelled(args: argparse.Namespace, folder: Path, roots: Roots, splits: Splits) -> None:
    """Manifests in wav2vec's form with letters, and their dictionary."""
    labelled = {
        split: [
            Labelled(segment.path, segment.n_samples, letters(segment.row.text), segment.row.text)
            for segment in segments
        ]
        for split, segments in splits.items()
    }
    write_recognition(folder, roots, labelled, args.dict)


def write_understanding(args: argparse.Namespace, folder: Path, roots: Roots, splits: Splits) -> None:
    """Manifests whose targets are parses, or texts; and the labels of the parses."""
    utterances = {
        split: [
            _utterance(roots[split], segment, segment.row.parse or segment.row.text) for segment in segments
        ]
        for split, segments in splits.items()
    }
    _write_manifests(folder, utterances)
    rows = [segment.row for segment in splits.get("train", next(iter(splits.values())))]
    if any(row.parse for row in rows):
        print(f"{write_labels(folder, (parse(row.parse) for row in rows if row.parse))} labels in training")


def write_audio_alone(args: argparse.Namespace, folder: Path, roots: Roots, splits: Splits) -> None:
    """Manifests in wav2vec's form; a file that occurs several times is listed once."""
    for split, segments in splits.items():
        files = {segment.path: segment.n_samples for segment in segments}
        write_waveform_manifest(folder / f"{split}.tsv", roots[split], list(files), list(files.values()))
        _print_split(split, list(files.values()))


WRITERS = {
    "speech_translation": write_translation,
    "audio_finetuning": write_labelled,
    "spoken_language_understanding": write_understanding,
    "ssl_distillation": write_audio_alone,
}


def _utterance(root: Path, segment: Segment, target: str) -> Utterance:
    row = segment.row
    audio = str(root / segment.path)
    return Utterance(row.id, audio, segment.offset, segment.n_samples, row.text, target, row.speaker)


def _write_manifests(folder: Path, splits: dict[str, list[Utterance]]) -> None:
    for split, utterances in splits.items():
        write_manifest(folder / f"{split}.tsv", utterances)
        _print_split(split, [utterance.n_frames for utterance in utterances])


def _print_split(split: str, samples: list[int]) -> None:
    seconds = [count / SAMPLE_RATE for count in samples]
    spread = f"{min(seconds):.1f} to {max(seconds):.1f} s each"
    print(f"{split}: {len(seconds):,} utterances, {sum(seconds) / 3600:.2f} h, {spread}")
