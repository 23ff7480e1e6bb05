"""Prepares LibriSpeech, or any corpus in its layout, for fairseq's task audio_finetuning.

Reads   ROOT/SUBSET/**/*.trans.txt, a line an utterance ("ID TEXT"), beside the audio ID.flac (or wav, ogg)
Writes  OUT/SPLIT.tsv, .ltr, .wrd      a split a subset, "-" in its name becoming "_"; the audio stays where it is
        OUT/dict.ltr.txt               the fairseq dictionary of all splits
        OUT/skipped.tsv                with --skip-bad: what was left out, and why

LibriSpeech:       prep_librispeech.py --root LibriSpeech --subsets train-clean-100 dev-other --out data
Libri-light:       prep_librispeech.py --libri-light librispeech_finetuning --root LibriSpeech \\
                       --subsets dev-other test-clean test-other --out data
                   This writes train_10min, train_1h and train_10h too. The folder 1h has six parts: train_10min is
                   the first of them, train_1h is all of them, and train_10h is these and the folder 9h.

fairseq wants 16 kHz and one channel: --convert writes such copies (16-bit FLAC) to OUT/audio and lists those. OUT
appears when all of it is complete.
"""

import os
from pathlib import Path
from typing import NamedTuple

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.labelled_audio import Labelled, letters
from fairseq_prune.files import complete_folder
from fairseq_prune.preparation.audio_files import AudioFiles, Skipped
from fairseq_prune.preparation.options import add_audio_reading, add_output
from fairseq_prune.preparation.recognition import add_dictionary_option, write_recognition
from fairseq_prune.text.lines import read_lines

ENDINGS = (".flac", ".wav", ".ogg")
LIBRI_LIGHT = {"train_10min": ["1h/{part}"], "train_1h": ["1h"], "train_10h": ["1h", "9h"]}


class Spoken(NamedTuple):
    """An utterance before its audio is looked at: its file, as a path from the root, and its words."""

    path: str
    text: str


def read_transcripts(root: Path, folders: list[str], split: str, skipped: Skipped) -> list[Spoken]:
    """All utterances below folders of a root, by their names.

    Raises:
        FileNotFoundError: no such folder, or no transcripts in it.
        ValueError: a line of a transcript is no utterance, or an utterance has no audio or occurs twice.
    """
    found: dict[str, Spoken] = {}
    for file in find_transcripts(root, folders):
        present = {entry.name for entry in os.scandir(file.parent)}
        for number, line in enumerate(read_lines(file), start=1):
            where = f"{file}, line {number}"
            name, _, text = line.strip().partition(" ")
            audio = next((name + end for end in ENDINGS if name + end in present), None)
            if not text.strip():
                skipped.add(split, f"{where}: expected an id and a text, found {line!r}")
            elif name in found:
                skipped.add(split, f"{where}: {name} occurs twice")
            elif audio is None:
                skipped.add(
                    split, f"{where}: {file.parent / name}.flac: no such audio file, but a transcript"
                )
            else:
                path = os.path.relpath(file.parent / audio, root)
                found[name] = Spoken(path, " ".join(text.split()))
    return [found[name] for name in sorted(found)]


def find_transcripts(root: Path, folders: list[str]) -> list[Path]:
    """The transcripts below folders of a root, in order.

    Raises:
        FileNotFoundError: no such folder, or no transcripts in it.
    """
    transcripts = []
    for folder in folders:
        if not (root / folder).is_dir():
            raise FileNotFoundError(f"{root / folder}: no such folder")
        files = sorted(
            Path(parent) / name
            for parent, _, names in os.walk(root / folder, followlinks=True)
            for name in names
            if name.endswith(".trans.txt")
        )
        if not files:
            raise FileNotFoundError(
                f"{root / folder}: no *.trans.txt below it; expected the layout of LibriSpeech"
            )
        transcripts += files
    return transcripts


def find_splits(args, skipped: Skipped) -> dict[str, tuple[Path, list[Spoken]]]:
    """The root and the utterances of each split.

    Raises:
        ValueError: options are missing; or as `read_transcripts`.
    """
    if (args.root is None) != (args.subsets is None):
        raise ValueError("--root and --subsets go together")
    if args.root is None and args.libri_light is None:
        raise ValueError("expected --root and --subsets, or --libri-light")
    folders = {}
    if args.libri_light is not None:
        for split, parts in LIBRI_LIGHT.items():
            folders[split] = (args.libri_light, [part.format(part=args.part) for part in parts])
    for subset in args.subsets or []:
        folders[subset.replace("-", "_")] = (args.root, [subset])
    splits = {}
    for split, (root, below) in folders.items():
        spoken = read_transcripts(root, below, split, skipped)
        if args.upper:
            spoken = [Spoken(path, text.upper()) for path, text in spoken]
        splits[split] = (root, spoken)
    return splits


def prepare(args) -> None:
    """Make the data folder ``args.out``."""
    skipped = Skipped(args.skip_bad)
    sources = find_splits(args, skipped)
    with complete_folder(args.out, args.overwrite) as folder:
        audio = AudioFiles(args, folder, skipped)
        splits = {}
        for split, (root, spoken) in sources.items():
            paths = [utterance.path for utterance in spoken]
            splits[split] = [
                Labelled(file.path, file.samples, letters(utterance.text), utterance.text)
                for file, utterance in zip(audio.measure(split, root, paths, for_fairseq=True), spoken)
                if file
            ]
        roots = {split: audio.root(split, root) for split, (root, _) in sources.items()}
        write_recognition(folder, roots, splits, args.dict)
        skipped.write(folder)


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--root", type=Path, help="folder that holds the subsets")
    add("--subsets", nargs="+", help="folders below --root, a split each")
    add("--libri-light", type=Path, help="folder librispeech_finetuning of Libri-light, with 1h and 9h")
    add("--part", type=int, choices=range(6), default=0, help="of 1h, for train_10min (%(default)s)")
    add_output(parser)
    add_dictionary_option(parser)
    add("--upper", action="store_true", help="write texts in capitals, as LibriSpeech has them")
    add_audio_reading(parser)
    return parser


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
