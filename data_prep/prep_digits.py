#!/usr/bin/env python3
"""Real speech for speech translation anywhere: the Free Spoken Digit Dataset in the layout of MuST-C.

Recordings of one speaker are joined to strings of 4 to 12 digits, several strings to a wav as in a talk. The
source is the English digits, the target the German number of each pair, which names the units before the
tens: "four seven" becomes "siebenundvierzig", "zero seven" becomes "null sieben".

Where a model is trained on utterances joined afresh (ConcatAugment), --train-pairs 1 6 adds short pieces; the
joined strings may then by chance equal a string of a test split, which this file cannot rule out.

Data: https://github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0); its own
test split is indices 0-4.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

import mustc_layout as layout
import numpy as np
from fsdd import (
    OPTION,
    Recording,
    check_digits,
    find_recordings,
    parse_indices,
    read_waveform,
    split_recordings,
)
from german_numbers import english_digits, german_pairs
from output_folder import complete_folder

DRAWING_ORDER = ("tst-COMMON", "dev", "train")  # a later split takes no string of an earlier one
LEVEL = {"peak": -3.0, "rms": -26.0}  # dB below full scale; -26 is the speech level of ITU-T P.56


def draw_strings(
    number: int, pairs: tuple[int, int], avoid: Iterable[str], rng: np.random.Generator
) -> list[str]:
    """Draws digit strings of pairs[0] to pairs[1] pairs, all lengths alike often, none of them in `avoid`.

    Raises `ValueError` when `avoid` holds every string of a length.
    """
    avoid = set(avoid)
    shortest, longest = pairs
    avoided_lengths = Counter(len(string) for string in avoid)
    for count in range(shortest, longest + 1):
        if avoided_lengths[2 * count] >= 100**count:
            raise ValueError(
                f"all strings of {count} pair(s) are taken by other splits: use more pairs there"
            )
    strings: list[str] = []
    while len(strings) < number:
        lengths = 2 * rng.integers(shortest, longest + 1, size=number)
        digits = rng.integers(10, size=(number, 2 * longest))
        drawn = ("".join(map(str, row[:length])) for row, length in zip(digits, lengths))
        strings += [string for string in drawn if string not in avoid]
    return strings[:number]


class DigitSpeaker:
    """Speaks a digit string by joining recordings of one speaker that are drawn at random."""

    def __init__(
        self,
        recordings: list[Recording],
        waveforms: dict[Path, np.ndarray],
        sample_rate: int,
        pause: tuple[float, float],
        edge: Optional[tuple[float, float]],
        rng: np.random.Generator,
    ) -> None:
        self.sample_rate, self.pause, self.edge, self.rng = sample_rate, pause, edge, rng
        self.takes: dict[tuple[str, int], list[np.ndarray]] = {}
        for recording in recordings:
            self.takes.setdefault((recording.speaker, recording.digit), []).append(waveforms[recording.path])

    def __call__(self, string: str, speaker: str) -> layout.Utterance:
        digits = [int(character) for character in string]
        spoken = []
        for digit in digits:
            takes = self.takes[speaker, digit]
            spoken.append(takes[self.rng.integers(len(takes))])
        audio, _ = layout.join_utterances(spoken, self.sample_rate, self.pause, self.rng, self.edge)
        return layout.Utterance(audio, english_digits(digits), german_pairs(digits))


def build_corpus(args: argparse.Namespace) -> None:
    """Checks the options, then writes the corpus below args.out; raises as the checks do."""
    pairs = {split: getattr(args, f"{OPTION[split]}_pairs") for split in layout.SPLITS}
    numbers = {split: getattr(args, f"{OPTION[split]}_utterances") for split in layout.SPLITS}
    for split, (shortest, longest) in pairs.items():
        layout.count_option(f"--{OPTION[split]}-utterances", numbers[split])
        if not 1 <= shortest <= longest:
            raise ValueError(f"--{OPTION[split]}-pairs {shortest} {longest}: expected 1 <= fewest <= most")
    pause = layout.seconds_range("--pause", args.pause)
    edge = layout.seconds_range("--edge-pause", args.edge_pause) if args.edge_pause else None
    talk_pause = layout.check_layout_arguments(args)
    if args.trim_db is not None and not args.trim_db > 0:
        raise ValueError(f"--trim-db {args.trim_db:g}: expected more than 0 dB")
    if args.level is not None and (args.normalize == "none" or not args.level <= 0):
        raise ValueError(f"--level {args.level:g}: expected 0 dBFS or less, with --normalize peak or rms")
    recordings = find_recordings(args.fsdd)
    everyone = args.speakers or sorted({recording.speaker for recording in recordings})
    speakers = {split: getattr(args, f"{OPTION[split]}_speakers") or everyone for split in layout.SPLITS}
    texts = {split: getattr(args, f"{OPTION[split]}_indices") for split in layout.SPLITS}
    indices = {
        split: None if text == "rest" else parse_indices(f"--{OPTION[split]}-indices", text)
        for split, text in texts.items()
    }
    parts = split_recordings(recordings, speakers, indices)
    written = [split for split in DRAWING_ORDER if parts[split]]
    voices = {split: check_digits(split, parts[split]) for split in written}
    if not written:
        raise ValueError(f"--fsdd {args.fsdd}: no split has a recording of the chosen speakers and indices")
    strings: dict[str, list[str]] = {}
    rngs = {split: np.random.default_rng([args.seed, place]) for place, split in enumerate(DRAWING_ORDER)}
    for split in written:
        avoid = {string for earlier in strings.values() for string in earlier}
        strings[split] = draw_strings(numbers[split], pairs[split], avoid, rngs[split])

    with complete_folder(args.out / layout.PAIR, args.overwrite) as corpus:
        level = LEVEL.get(args.normalize, 0.0) if args.level is None else args.level
        used = {recording.path for split in written for recording in parts[split]}
        waveforms = {
            path: read_waveform(
                path, args.sample_rate, normalize=args.normalize, level=level, trim_db=args.trim_db
            )
            for path in sorted(used)
        }
        sizes = {}
        for split in written:
            speak = DigitSpeaker(parts[split], waveforms, args.sample_rate, pause, edge, rngs[split])
            talks = layout.make_talks(strings[split], voices[split], args.utterances_per_talk, speak, split)
            sizes[split] = layout.write_split(
                corpus / "data", split, talks, args.sample_rate, talk_pause, rngs[split]
            )

    layout.print_report(
        sizes,
        {
            "digits": {split: f"{sum(map(len, strings[split])):,}" for split in written},
            "distinct strings": {split: f"{len(set(strings[split])):,}" for split in written},
            "recordings": {split: f"{len(parts[split]):,}" for split in written},
            "speakers": {split: " ".join(voices[split]) for split in written},
        },
    )
    if "train" in written and len(written) > 1:
        common = {split: len(set(strings[split]) & set(strings["train"])) for split in written[:-1]}
        print(
            "digit strings that are also in train:", *(f"{split} {count}" for split, count in common.items())
        )
    for split in layout.SPLITS:
        if not parts[split]:
            found = sorted({recording.index for recording in recordings})
            print(
                f"{split} is not written: no recording of {' '.join(speakers[split])} has an index in "
                f"{texts[split]} (found {found[0]} to {found[-1]}); see --{OPTION[split]}-indices"
            )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--fsdd", type=Path, required=True, metavar="DIR", help="folder of {digit}_{speaker}_{index}.wav"
    )
    layout.add_layout_arguments(parser)
    parser.add_argument("--speakers", nargs="+", metavar="NAME", help="speakers to use (all)")
    defaults = {"train": ("rest", 5000), "dev": ("5-9", 300), "tst-COMMON": ("0-4", 500)}
    for split, (indices, utterances) in defaults.items():
        name = OPTION[split]
        parser.add_argument(
            f"--{name}-indices",
            default=indices,
            metavar="RANGES",
            help=f"recordings of {split}, as in 0-4,7; rest: those of no other split (%(default)s)",
        )
        parser.add_argument(
            f"--{name}-speakers",
            nargs="+",
            metavar="NAME",
            help="as --speakers, for this split (those of --speakers)",
        )
        parser.add_argument(
            f"--{name}-utterances", type=int, default=utterances, metavar="N", help="(%(default)s)"
        )
        layout.add_range(parser, f"--{name}-pairs", (2, 6), "pairs of digits in an utterance")
    layout.add_range(
        parser, "--pause", (0.05, 0.25), "silence between the digits of an utterance, in seconds"
    )
    parser.add_argument(
        "--edge-pause",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="silence before its first and after its last digit (as --pause)",
    )
    parser.add_argument(
        "--trim-db",
        type=float,
        metavar="DB",
        help="cut the edges of a recording that lie this far below its loudest 10 ms (no trimming)",
    )
    parser.add_argument(
        "--normalize", choices=("none", "peak", "rms"), default="none", help="level recordings (%(default)s)"
    )
    parser.add_argument(
        "--level", type=float, metavar="DB", help="level for --normalize, in dBFS (peak -3, rms -26)"
    )
    parser.add_argument(
        "--sample-rate", type=int, choices=(8000, 16000), default=8000, help="of the wavs (%(default)s)"
    )
    return parser


def main(argv: Optional[list[str]] = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        build_corpus(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
