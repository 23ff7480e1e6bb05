"""What preparations of spoken language understanding write: manifests with audio, or texts without."""

import argparse
from pathlib import Path
from typing import NamedTuple

from fairseq_prune.command_line import PlainParser
from fairseq_prune.data.manifest import Utterance, write_manifest
from fairseq_prune.files import complete_folder
from fairseq_prune.preparation.audio_files import AudioFiles, Skipped
from fairseq_prune.preparation.layouts.slu_texts import Text, write_labels, write_texts
from fairseq_prune.preparation.options import add_audio_reading, add_output
from fairseq_prune.text.meanings import Node


class Spoken(NamedTuple):
    """What is said and what it means; ``audio`` is an absolute path, and empty with --text-only."""

    id: str
    audio: str
    text: str
    tree: Node
    speaker: str


def add_writing(parser: PlainParser) -> None:
    """The options of `write_corpus`."""
    add_output(parser, "folder to write")
    add_audio_reading(parser, convert=False)


def write_corpus(
    args: argparse.Namespace,
    splits: dict[str, list[Spoken]],
    skipped: Skipped,
    kinds: dict[str, str],
) -> None:
    """Write the folder ``args.out``: a manifest a split, or its texts with --text-only, and the labels.

    Args:
        kinds: what is printed of each split beside the number of its utterances
    """
    with complete_folder(args.out, args.overwrite) as folder:
        audio = AudioFiles(args, folder, skipped)
        for split, rows in splits.items():
            if args.text_only:
                write_texts(folder, split, (Text(row.id, row.text, str(row.tree)) for row in rows))
                number = len(rows)
            else:
                number = _write_manifest(folder, split, rows, audio)
            print(f"{split}: {number:,} utterances, {kinds[split]}")
        n_labels = write_labels(folder, (row.tree for row in splits["train"]))
        skipped.write(folder)
    print(f"{args.out}: {n_labels} labels in training")


def _write_manifest(folder: Path, split: str, rows: list[Spoken], audio: AudioFiles) -> int:
    files = audio.measure(split, Path("/"), [row.audio for row in rows])
    utterances = [
        Utterance(row.id, row.audio, 0, file.samples, row.text, str(row.tree), row.speaker)
        for row, file in zip(rows, files)
        if file
    ]
    write_manifest(folder / f"{split}.tsv", utterances)
    return len(utterances)
