"""The coffee orders of Picovoice's speech-to-intent benchmark for the task spoken_language_understanding.

Reads   CORPUS/labels.json              {"FILE": {"intent": "orderDrink", "slots": {"size": "large", ...}}, ...}
        CORPUS/audio/FILE               the recordings
        CORPUS/training_sentences.txt   with --text-only: a sentence a line, without its slots
Writes  OUT: manifests train, dev and test, and labels.txt. Targets are parses such as
        `[IN:orderDrink [SL:size large ] [SL:coffeeDrink iced coffee ] ]`, with the slots in the order of SLOTS.

    prep_picovoice.py --corpus picovoice_coffee --out data
    prep_picovoice.py --corpus picovoice_coffee --text-only --variations 5 --out texts      # then make_speech.py texts

The corpus does not say who speaks. So the split is fixed by a hash of the file's name (train 60 %, dev 10 %, test
30 %), a speaker may be in several splits, and each recording stands as a speaker of its own. Sentences are split the
same way, 80 to 10 to 10. A variation is a sentence of the training part with other values in its slots, and with other
slots before the drink.
"""

import argparse
import hashlib
import json
import re
from pathlib import Path

import numpy as np

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.preparation.audio_files import Skipped
from fairseq_prune.preparation.options import add_seed, whole_number
from fairseq_prune.preparation.spoken_language import Spoken, add_writing, write_corpus
from fairseq_prune.text.lines import read_lines, read_text
from fairseq_prune.text.meanings import INTENT, SLOT, Node

ORDER = "orderDrink"
AMOUNTS = ("", "some ", "a bit of ", "a little bit of ", "a lot of ", "lots of ")
MILKS = ("milk", "cream", "whole milk", "skim milk", "soy milk", "almond milk")
SUGARS = ("sugar", "brown sugar", "sweetener")
OUNCES = ("eight", "twelve", "sixteen", "twenty")
SLOTS = {  # the values of the benchmark's context; the order is about that in which people say them
    "size": ("small", "medium", "large", *(f"{number} ounce" for number in OUNCES)),
    "roast": ("light roast", "medium roast", "dark roast"),
    "numberOfShots": ("single shot", "double shot", "triple shot"),
    "coffeeDrink": ("coffee", "house coffee", "drip coffee", "iced coffee", "espresso", "americano", "latte")
    + ("cappuccino", "mocha", "iced mocha"),
    "milkAmount": tuple(amount + milk for amount in AMOUNTS for milk in MILKS),
    "sugarAmount": tuple(amount + sugar for amount in AMOUNTS for sugar in SUGARS),
}
BEFORE = ("size", "roast", "numberOfShots")  # said before the drink
SLOT_OF = {value: slot for slot, values in SLOTS.items() for value in values}
VALUE = re.compile(rf"\b({'|'.join(sorted(SLOT_OF, key=len, reverse=True))})\b")  # the longest one wins
SHARES = {"train": 0.6, "dev": 0.1, "test": 0.3}
TEXT_SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}


def split_of(name: str, shares: dict[str, float]) -> str:
    """The split that a hash of a name falls into; the same on every machine."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return split


def as_parse(slots: dict[str, str]) -> Node:
    """The parse of an order; its slots stand in the order of `SLOTS`."""
    return Node(INTENT + ORDER, [Node(SLOT + slot, slots[slot].split()) for slot in SLOTS if slot in slots])


def read_label(entry) -> Node:
    """The parse of an entry of labels.json, ``{"intent": ..., "slots": {...}}``.

    Raises:
        ValueError: says what is wrong with it.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("slots"), dict):
        raise ValueError("expected an object with intent and slots")
    if entry.get("intent") != ORDER:
        raise ValueError(f"intent {entry.get('intent')!r}: expected {ORDER!r}")
    slots = {}
    for slot, value in entry["slots"].items():
        words = " ".join(value.split()) if isinstance(value, str) else value
        if slot not in SLOTS:
            raise ValueError(f"slot {slot!r}: expected one of {', '.join(SLOTS)}")
        if words not in SLOTS[slot]:
            raise ValueError(f"{slot} {value!r}: not a value of the benchmark's context")
        slots[slot] = words
    if not slots:
        raise ValueError("expected at least one slot, found none")
    return as_parse(slots)


def read_recordings(corpus: Path, skipped: Skipped) -> dict[str, list[Spoken]]:
    """The labelled recordings by split.

    Raises:
        FileNotFoundError: there is no labels.json.
        ValueError: names the file, the entry and what is wrong with it.
    """
    path = corpus / "labels.json"
    try:
        entries = json.loads(read_text(path, "labels.json"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise ValueError(f"{path}: expected an object with an entry a recording")
    rows: dict[str, list[Spoken]] = {split: [] for split in SHARES}
    for name, entry in entries.items():
        split, audio = split_of(Path(name).stem, SHARES), (corpus / "audio" / name).resolve()
        try:
            if not audio.is_file():
                raise ValueError(f"no recording {corpus / 'audio' / name}")
            rows[split].append(Spoken(name, str(audio), "", read_label(entry), name))
        except ValueError as error:
            skipped.add(split, f"{path}, entry {name}: {error}")
    return rows


def read_slots(sentence: str) -> dict[str, str]:
    """The slots of a sentence and their values.

    Raises:
        ValueError: it has no drink, or a slot twice.
    """
    slots: dict[str, str] = {}
    for value in VALUE.findall(sentence):
        if SLOT_OF[value] in slots:
            raise ValueError(f"{SLOT_OF[value]} twice, {slots[SLOT_OF[value]]!r} and {value!r}")
        slots[SLOT_OF[value]] = value
    if "coffeeDrink" not in slots:
        raise ValueError(f"no drink in {sentence!r}")
    return slots


def vary(sentence: str, rng: np.random.Generator) -> str:
    """The sentence with other values, and with 0 to 3 of `BEFORE` in any order before the drink, all drawn at random.

    The benchmark's sentences have two of these at most; one of its recordings in nine has all three.
    """

    def value(slot: str) -> str:
        return str(rng.choice(SLOTS[slot]))

    found = list(VALUE.finditer(sentence))
    drink = next(match for match in found if SLOT_OF[match.group()] == "coffeeDrink")
    before = "".join(f"{value(slot)} " for slot in rng.permutation(BEFORE)[: rng.integers(len(BEFORE) + 1)])
    rest = VALUE.sub(lambda match: value(SLOT_OF[match.group()]), sentence[drink.start() :])
    return sentence[: found[0].start()] + before + rest


def read_sentences(corpus: Path, variations: int, seed: int, skipped: Skipped) -> dict[str, list[Spoken]]:
    """The training sentences by split, and variations of those of the training part.

    Raises:
        FileNotFoundError: there is no training_sentences.txt.
        ValueError: names the file, the line and what is wrong with it.
    """
    path, rng = corpus / "training_sentences.txt", np.random.default_rng(seed)
    rows: dict[str, list[Spoken]] = {split: [] for split in TEXT_SHARES}
    for number, line in enumerate(read_lines(path), start=1):
        sentence = " ".join(line.split())
        split = split_of(sentence, TEXT_SHARES)
        try:
            read_slots(sentence)
        except ValueError as error:
            skipped.add(split, f"{path}, line {number}: {error}")
            continue
        texts = [sentence]
        if split == "train":
            texts += [vary(sentence, rng) for _ in range(variations)]
        for copy, text in enumerate(texts):
            rows[split].append(Spoken(f"{number:04d}-{copy}", "", text, as_parse(read_slots(text)), "text"))
    return rows


def prepare(args: argparse.Namespace) -> None:
    """Check the corpus, then write the folder ``args.out``."""
    skipped = Skipped(args.skip_bad)
    if args.text_only:
        rows = read_sentences(args.corpus, args.variations, args.seed, skipped)
    else:
        rows = read_recordings(args.corpus, skipped)
    empty = [split for split in rows if not rows[split]]
    if empty:
        raise ValueError(f"{args.corpus}: nothing falls into the split {empty[0]}; the corpus is too small")
    kinds = {split: f"{len({str(row.tree) for row in rows[split]})} meanings" for split in rows}
    write_corpus(args, rows, skipped, kinds)


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--corpus", type=Path, required=True, metavar="DIR", help="with labels.json and audio")
    add("--text-only", action="store_true", help="write the training sentences, for make_speech.py to speak")
    add(
        "--variations",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="of each training sentence, with other slots and values (%(default)s)",
    )
    add_seed(parser, "of --variations")
    add_writing(parser)
    return parser


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
