"""SLURP (Bastianelli et al. 2020) as manifests for the task spoken_language_understanding.

Reads the official jsonl files (dataset/slurp of github.com/pswietojanski/slurp) and its audio (slurp_real,
slurp_synth of zenodo.org/record/4274930). Targets are parses such as `[IN:calendar_set [SL:date tomorrow ] ]`.

    prep_slurp.py --train train.jsonl train_synthetic.jsonl --dev devel.jsonl --test test.jsonl \\
        --audio slurp_real slurp_synth --out data
    prep_slurp.py --train devel.jsonl --hold-out 100 300 --text-only --out texts    # then make_speech.py texts
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.preparation.audio_files import Skipped
from fairseq_prune.preparation.layouts.slu_texts import SPLITS
from fairseq_prune.preparation.options import add_seed
from fairseq_prune.preparation.spoken_language import Spoken, add_writing, write_corpus
from fairseq_prune.text.lines import read_lines
from fairseq_prune.text.meanings import Meaning, Node, parse, parse_slurp


class Entry(NamedTuple):
    """An utterance of SLURP; ``files`` are the names of its recordings, ``where`` is its file and line."""

    where: str
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


def read_entry(where: str, line: str, whole: bool) -> Entry:
    """An utterance of a line of a jsonl file; ``whole``: with all words in the parse.

    Raises:
        ValueError: says what is wrong with it.
    """
    row, meaning = parse_slurp(line)
    try:
        tree = with_words(row, meaning) if whole else meaning.to_parse()
        if not row["sentence"].strip():
            raise ValueError("the sentence is empty")
        files = tuple(recording["file"] for recording in row["recordings"])
        return Entry(where, str(row["slurp_id"]), row["sentence"], meaning, tree, files)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no SLURP entry: {type(error).__name__} {error}") from None


def read_entries(
    split: str, paths: Iterable[Path], whole: bool, text_only: bool, skipped: Skipped
) -> list[Entry]:
    """The utterances of jsonl files. Names of recordings, or ids with ``text_only``, are unique among them.

    Raises:
        ValueError: names the file, the line and what is wrong with it.
    """
    entries, first = [], {}
    for path in paths:
        for number, line in enumerate(read_lines(path), start=1):
            where = f"{path}, line {number}"
            try:
                entry = read_entry(where, line, whole)
                keys = [entry.id] if text_only else entry.files
                if not keys:
                    raise ValueError(f"utterance {entry.id} has no recordings")
                for key in keys:
                    if key in first:
                        what = "slurp_id" if text_only else "recording"
                        raise ValueError(f"{what} {key} is listed twice, first in {first[key]}")
                    first[key] = where
            except ValueError as error:
                skipped.add(split, f"{where}: {error}")
            else:
                entries.append(entry)
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


def find_audio(folders: list[Path]) -> dict[str, list[Path]]:
    """The audio files below some folders by name; one name may be that of several files.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    found: dict[str, list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"--audio {folder}: no such folder")
        for path in sorted(folder.rglob("*.*")):
            if path.is_file():
                found.setdefault(path.name, []).append(path.resolve())
    return found


def recordings(
    split: str, entries: list[Entry], audio: dict[str, list[Path]], skipped: Skipped
) -> Iterator[Spoken]:
    """A row for each recording; its name is its id, by which SLURP scores predictions.

    Raises:
        ValueError: a recording is not among the audio, or two different files have its name.
    """
    for entry in entries:
        for name in entry.files:
            paths = sorted(set(audio.get(name, [])))
            if len(paths) == 1:
                # the speaker is not in the jsonl files
                yield Spoken(name, str(paths[0]), entry.sentence, entry.tree, "slurp")
            elif paths:
                skipped.add(split, f"{entry.where}: two files are named {name}: {paths[0]} and {paths[1]}")
            else:
                skipped.add(split, f"{entry.where}: recording {name} is not below --audio")


def prepare(args) -> None:
    """Check the options, then write the folder ``args.out``."""
    given = {split: getattr(args, split) for split in SPLITS if getattr(args, split)}
    if bool(args.hold_out) == ("dev" in given or "test" in given):
        raise ValueError("expected either --dev and --test, or --hold-out")
    if not args.hold_out and len(given) < len(SPLITS):
        raise ValueError("expected both --dev and --test")
    skipped = Skipped(args.skip_bad)
    splits = {
        split: select(
            read_entries(split, paths, args.words, args.text_only, skipped),
            args.scenarios,
            args.min_intent_count,
        )
        for split, paths in given.items()
    }
    if args.hold_out:
        splits = hold_out(splits["train"], *args.hold_out, args.seed)
    intents = {
        split: f"{len({entry.meaning.intent for entry in entries})} intents"
        for split, entries in splits.items()
    }
    if args.text_only:
        rows = {
            split: [Spoken(entry.id, "", entry.sentence, entry.tree, "slurp") for entry in entries]
            for split, entries in splits.items()
        }
    else:
        audio = find_audio(args.audio)
        rows = {split: list(recordings(split, entries, audio, skipped)) for split, entries in splits.items()}
    write_corpus(args, rows, skipped, intents)


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
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
    add_seed(parser, "of --hold-out")
    add_writing(parser)
    return parser


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
