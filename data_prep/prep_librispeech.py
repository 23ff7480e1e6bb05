#!/usr/bin/env python3
"""Prepares LibriSpeech, or any corpus in its layout, for fairseq's task audio_finetuning.

Reads   ROOT/SUBSET/**/*.trans.txt, a line an utterance ("ID TEXT"), beside the audio ID.flac (or wav, ogg)
Writes  OUT/SPLIT.tsv, .ltr, .wrd      a split a subset, "-" in its name becoming "_"; the audio stays where it is
        OUT/dict.ltr.txt               the fairseq dictionary of all splits

LibriSpeech:       prep_librispeech.py --root LibriSpeech --subsets train-clean-100 dev-other --out data
Libri-light:       prep_librispeech.py --libri-light librispeech_finetuning --root LibriSpeech \\
                       --subsets dev-other test-clean test-other --out data
                   writes train_10min, train_1h and train_10h too: the first of the six parts of the folder 1h, all of
                   them, and these with the folder 9h

fairseq wants 16 kHz and one channel: --convert writes such copies (16-bit FLAC) to OUT/audio and lists those. OUT
appears when all of it is complete.
"""

import argparse
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Optional

from output_folder import complete_folder
from prep_audio import measure
from tqdm import tqdm

from fairseq_prune.data.audio import SAMPLE_RATE, audio_info
from fairseq_prune.data.labelled_audio import (
    ENGLISH_LETTERS,
    Labelled,
    check_labels,
    count_labels,
    letters,
    write_split,
)
from fairseq_prune.text.dictionaries import read_dictionary, write_dictionary
from fairseq_prune.text.lines import read_lines

ENDINGS = (".flac", ".wav", ".ogg")
LIBRI_LIGHT = {"train_10min": ["1h/{part}"], "train_1h": ["1h"], "train_10h": ["1h", "9h"]}


class Spoken(NamedTuple):
    """An utterance before its audio is looked at: its file, as a path from the root, and its words."""

    path: str
    text: str


def read_transcripts(root: Path, folders: list[str]) -> list[Spoken]:
    """All utterances below folders of a root, by their names.

    Raises:
        FileNotFoundError: no such folder, no transcripts in it, or an utterance without audio.
        ValueError: a line of a transcript is no utterance, or an utterance occurs twice.
    """
    found: dict[str, Spoken] = {}
    for folder in folders:
        if not (root / folder).is_dir():
            raise FileNotFoundError(f"{root / folder}: no such folder")
        files = [
            Path(parent) / name
            for parent, _, names in os.walk(root / folder, followlinks=True)
            for name in names
            if name.endswith(".trans.txt")
        ]
        if not files:
            raise FileNotFoundError(
                f"{root / folder}: no *.trans.txt below it; expected the layout of LibriSpeech"
            )
        for file in files:
            present = {entry.name for entry in os.scandir(file.parent)}
            for number, line in enumerate(read_lines(file), start=1):
                name, _, text = line.strip().partition(" ")
                if not text.strip():
                    raise ValueError(f"{file}, line {number}: expected an id and a text, found {line!r}")
                if name in found:
                    raise ValueError(f"{file}, line {number}: {name} occurs twice")
                audio = next((name + end for end in ENDINGS if name + end in present), None)
                if audio is None:
                    raise FileNotFoundError(
                        f"{file.parent / name}.flac: no such audio file, but a transcript"
                    )
                path = os.path.relpath(file.parent / audio, root)
                found[name] = Spoken(path, " ".join(text.split()))
    return [found[name] for name in sorted(found)]


def for_fairseq(root: Path, path: str, copies: Optional[Path]) -> tuple[str, int]:
    """A path and its samples, of a file or of the copy of it that is written to a folder ``copies``.

    Raises:
        ValueError: without a copy fairseq would refuse the file, as it is not at 16 kHz.
    """
    if copies is not None:
        return measure(root, path, copies)
    info = audio_info(root / path)
    if info.file_rate != SAMPLE_RATE:
        raise ValueError(
            f"{root / path}: {info.file_rate} Hz, but fairseq wants {SAMPLE_RATE}; give --convert"
        )
    return path, info.n_samples


def look_at(
    spoken: list[Spoken], look: Callable[[str], tuple[str, int]], title: str, threads: int
) -> list[Labelled]:
    """The utterances with their samples; ``look`` gives path and samples of a path."""
    with ThreadPoolExecutor(threads) as pool:
        seen = pool.map(look, (utterance.path for utterance in spoken))
        progress = tqdm(zip(seen, spoken), title, len(spoken), unit="file", disable=None)
        return [
            Labelled(path, samples, letters(utterance.text), utterance.text)
            for (path, samples), utterance in progress
        ]


def dictionary_labels(option: str, splits: dict[str, list[Labelled]]) -> list[str]:
    """The labels of --dict: the English letters, those of the corpus by frequency, or those of a file."""
    if option == "english":
        return list(ENGLISH_LETTERS)
    if option == "corpus":
        counts = count_labels(utterance for split in splits.values() for utterance in split)
        return sorted(counts, key=lambda label: (-counts[label], label))
    dictionary = read_dictionary(option)
    return dictionary.symbols[dictionary.nspecial :]


def prepare(args) -> None:
    """Make the data folder ``args.out``."""
    sources: dict[str, tuple[Path, list[Spoken]]] = {}
    if args.libri_light is not None:
        for split, folders in LIBRI_LIGHT.items():
            folders = [folder.format(part=args.part) for folder in folders]
            sources[split] = (args.libri_light, read_transcripts(args.libri_light, folders))
    for subset in args.subsets or []:
        sources[subset.replace("-", "_")] = (args.root, read_transcripts(args.root, [subset]))
    if args.upper:
        sources = {
            split: (root, [Spoken(path, text.upper()) for path, text in spoken])
            for split, (root, spoken) in sources.items()
        }
    with complete_folder(args.out, args.overwrite) as folder:
        splits, roots = {}, {}
        for split, (root, spoken) in sources.items():
            copies = folder / "audio" / split if args.convert else None
            look = partial(for_fairseq, root, copies=copies)
            splits[split] = look_at(spoken, look, split, args.threads)
            roots[split] = args.out.resolve() / "audio" / split if args.convert else root.resolve()
        labels = dictionary_labels(args.dict, splits)
        print(f"{'split':<16}{'hours':>9}{'utterances':>12}{'words':>12}{'seconds':>16}")
        for split, utterances in splits.items():
            names = [f"{roots[split] / utterance.path}" for utterance in utterances]
            check_labels(names, [utterance.labels for utterance in utterances], labels)
            write_split(folder, split, roots[split], utterances)
            seconds = [utterance.samples / SAMPLE_RATE for utterance in utterances]
            n_words = sum(len(utterance.words.split()) for utterance in utterances)
            spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
            print(f"{split:<16}{sum(seconds) / 3600:>9.2f}{len(seconds):>12,}{n_words:>12,}{spread:>16}")
        counts = count_labels(utterance for split in splits.values() for utterance in split)
        write_dictionary(folder / "dict.ltr.txt", labels, counts)
        print(f"dict.ltr.txt: {len(labels)} labels: {' '.join(labels)}")


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", type=Path, help="folder that holds the subsets")
    add("--subsets", nargs="+", help="folders below --root, a split each")
    add("--libri-light", type=Path, help="folder librispeech_finetuning of Libri-light, with 1h and 9h")
    add("--part", type=int, choices=range(6), default=0, help="of 1h, for train_10min (%(default)s)")
    add("--out", type=Path, required=True, help="folder to make, the DATA of fairseq-train")
    add("--overwrite", action="store_true", help="replace an --out that exists")
    add(
        "--dict",
        default="english",
        metavar="english|corpus|FILE",
        help="labels of the dictionary: of the published recognisers, of this corpus, or of a fairseq dictionary",
    )
    add("--upper", action="store_true", help="write texts in capitals, as LibriSpeech has them")
    add("--convert", action="store_true", help="write 16 kHz copies to OUT/audio and list those")
    add("--threads", type=int, default=8, help="files read at a time (%(default)s)")
    args = parser.parse_args(argv)
    if (args.root is None) != (args.subsets is None):
        parser.error("--root and --subsets go together")
    if args.root is None and args.libri_light is None:
        parser.error("expected --root and --subsets, or --libri-light")
    return args


def main(argv: Optional[list[str]] = None) -> int:
    args = parse_args(argv)
    try:
        prepare(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
