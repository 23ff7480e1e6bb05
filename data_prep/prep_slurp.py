#!/usr/bin/env python3
"""SLURP (Bastianelli et al. 2020) as manifests for the task spoken_language_understanding.

Reads the official jsonl files (dataset/slurp of github.com/pswietojanski/slurp) and its audio (slurp_real,
slurp_synth of zenodo.org/record/4274930). Targets are parses such as `[IN:calendar_set [SL:date tomorrow ] ]`.

    prep_slurp.py --train train.jsonl train_synthetic.jsonl --dev devel.jsonl --test test.jsonl \\
        --audio slurp_real slurp_synth --out data
    prep_slurp.py --train devel.jsonl --hold-out 100 300 --text-only --out texts    # then make_speech.py texts
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from output_folder import complete_folder
from slu_texts import SPLITS, Text, write_labels, write_texts

from fairseq_prune.data.audio import audio_info
from fairseq_prune.data.manifest import Utterance, write_manifest
from fairseq_prune.text.meanings import Meaning, Node, parse, read_slurp


class Entry(NamedTuple):
    """An utterance of SLURP; ``files`` are the names of its recordings."""

    id: str
    sentence: str
    meaning: Meaning
    tree: Node
    files: tuple[str, ...]


def with_words(row: dict[str, Any], meaning: Meaning) -> Node:
    """The parse with all words of the utterance, as STOP has them; it means the same.

    Raises:
        ValueError: spans overlap or have gaps, so that no bracket can hold them.
    """
    words = [token["surface"].lower() for token in row["tokens"]]
    tree, place = Node(meaning.to_parse().label), 0
    for entity, slot in sorted(
        zip(row["entities"], meaning.to_parse().children), key=lambda pair: pair[0]["span"]
    ):
        span = entity["span"]
        if span[0] < place or span != list(range(span[0], span[-1] + 1)):
            raise ValueError(f"entity {entity['type']!r}: a span that no bracket can hold: {span}")
        tree.children += [*words[place : span[0]], slot]
        place = span[-1] + 1
    tree.children += words[place:]
    return parse(str(tree))


def read_entries(paths: Iterable[Path], whole: bool) -> list[Entry]:
    """The utterances of jsonl files; ``whole``: with all words in the parse.

    Raises:
        ValueError: names the file, the line and what is wrong with it.
    """
    entries = []
    for path in paths:
        for where, row, meaning in read_slurp(path):
            try:
                tree = with_words(row, meaning) if whole else meaning.to_parse()
                if not row["sentence"].strip():
                    raise ValueError("the sentence is empty")
                files = tuple(recording["file"] for recording in row["recordings"])
                entries.append(Entry(str(row["slurp_id"]), row["sentence"], meaning, tree, files))
            except (KeyError, TypeError) as error:
                raise ValueError(f"{where}: no SLURP entry: {type(error).__name__} {error}") from None
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
    return entries


def select(entries: list[Entry], scenarios: Optional[list[str]], min_count: int) -> list[Entry]:
    """The utterances of some scenarios whose intent occurs at least ``min_count`` times.

    Raises:
        ValueError: a scenario does not occur, or nothing is left.
    """
    known = sorted({entry.meaning.scenario for entry in entries})
    unknown = [scenario for scenario in scenarios or [] if scenario not in known]
    if unknown:
        raise ValueError(f"--scenarios: no utterance of {unknown[0]!r}; there are {', '.join(known)}")
    counts = Counter(entry.meaning.intent for entry in entries)
    kept = [
        entry
        for entry in entries
        if (not scenarios or entry.meaning.scenario in scenarios)
        and counts[entry.meaning.intent] >= min_count
    ]
    if not kept:
        raise ValueError(f"--min-intent-count {min_count}: no intent occurs so often")
    return kept


def hold_out(entries: list[Entry], dev: int, test: int, seed: int) -> dict[str, list[Entry]]:
    """Split into ``dev`` and ``test`` utterances and the rest for training; no sentence is in two splits.

    Raises:
        ValueError: nothing would remain for training.
    """
    by_sentence: dict[str, list[Entry]] = {}
    for entry in entries:
        by_sentence.setdefault(entry.sentence.lower(), []).append(entry)
    sentences = list(by_sentence)
    order = np.random.default_rng(seed).permutation(len(sentences))
    if min(dev, test) < 1 or dev + test >= len(sentences):
        raise ValueError(
            f"--hold-out {dev} {test}: expected two numbers above 0, and less than {len(sentences)} together"
        )
    parts = dict(zip(("test", "dev", "train"), np.split(order, [test, test + dev])))
    return {
        split: [entry for place in sorted(parts[split]) for entry in by_sentence[sentences[place]]]
        for split in SPLITS
    }


def find_audio(folders: list[Path]) -> dict[str, Path]:
    """The audio files below some folders by name.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    found = {}
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"--audio {folder}: no such folder")
        found.update((path.name, path.resolve()) for path in folder.rglob("*.*") if path.is_file())
    return found


def utterances(entries: list[Entry], audio: dict[str, Path]) -> Iterable[Utterance]:
    """A row for each recording; its name is its id, by which SLURP scores predictions.

    Raises:
        FileNotFoundError: a recording is not among the audio.
    """
    for entry in entries:
        for name in entry.files:
            if name not in audio:
                raise FileNotFoundError(f"{name}: a recording of utterance {entry.id} is not below --audio")
            samples = audio_info(audio[name]).n_samples
            # the speaker is not in the jsonl files
            yield Utterance(name, str(audio[name]), 0, samples, entry.sentence, str(entry.tree), "slurp")


def build(args: argparse.Namespace) -> None:
    """Check the options, then write the folder args.out."""
    given = {split: getattr(args, split) for split in SPLITS if getattr(args, split)}
    if bool(args.hold_out) == ("dev" in given or "test" in given):
        raise ValueError("expected either --dev and --test, or --hold-out")
    if not args.hold_out and len(given) < len(SPLITS):
        raise ValueError("expected both --dev and --test")
    splits = {split: read_entries(paths, args.words) for split, paths in given.items()}
    splits = {
        split: select(entries, args.scenarios, args.min_intent_count) for split, entries in splits.items()
    }
    if args.hold_out:
        splits = hold_out(splits["train"], *args.hold_out, args.seed)
    audio = {} if args.text_only else find_audio(args.audio)
    with complete_folder(args.out, args.overwrite) as folder:
        for split, entries in splits.items():
            if args.text_only:
                texts = (Text(entry.id, entry.sentence, str(entry.tree)) for entry in entries)
                write_texts(folder, split, texts)
            else:
                write_manifest(folder / f"{split}.tsv", utterances(entries, audio))
            intents = {entry.meaning.intent for entry in entries}
            print(f"{split}: {len(entries):,} utterances, {len(intents)} intents")
        number = write_labels(folder, (entry.tree for entry in splits["train"]))
    print(f"{args.out}: {number} labels in training")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--train",
        nargs="+",
        type=Path,
        required=True,
        metavar="JSONL",
        help="train.jsonl, train_synthetic.jsonl",
    )
    add("--dev", nargs="+", type=Path, metavar="JSONL", help="devel.jsonl")
    add("--test", nargs="+", type=Path, metavar="JSONL", help="test.jsonl")
    add(
        "--hold-out",
        nargs=2,
        type=int,
        metavar=("DEV", "TEST"),
        help="sentences of --train to test on instead",
    )
    audio = parser.add_mutually_exclusive_group(required=True)
    audio.add_argument("--audio", nargs="+", type=Path, metavar="DIR", help="folders with the recordings")
    audio.add_argument(
        "--text-only", action="store_true", help="write texts, for make_speech.py to read aloud"
    )
    add("--words", action="store_true", help="parses with all words of the utterance, as STOP has them")
    add("--scenarios", nargs="+", help="take utterances of these scenarios only (all)")
    add("--min-intent-count", type=int, default=1, metavar="N", help="leave rarer intents out (%(default)s)")
    add("--seed", type=int, default=1, help="of --hold-out (%(default)s)")
    add("--out", type=Path, required=True, help="folder to write")
    add("--overwrite", action="store_true", help="replace --out if it is there")
    return parser


def main(argv: Optional[list[str]] = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        build(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
