#!/usr/bin/env python3
"""Real speech anywhere: the Free Spoken Digit Dataset for speech translation or recognition.

Recordings of one speaker are joined to strings of digits.

--task st       ROOT/en-de in the layout of MuST-C, for prep_mustc.py: strings of 4 to 12 digits, several to a wav as
                in a talk. The source is the English digits, the target the German number of each pair, which
                names the units before the tens: "four seven" becomes "siebenundvierzig", "zero seven" becomes
                "null sieben". No string of a test split is in train.
--task asr      ROOT/{train,dev,test}.{tsv,ltr,wrd}, dict.{ltr,wrd}.txt and audio (FLAC, 16 kHz), as of LibriSpeech,
                for fairseq's task audio_finetuning with letters or words as labels: strings of 1 to 4 digits, a
                file each. What is held out are recordings; the short strings themselves recur.

Where a model of --task st is trained on utterances joined afresh (ConcatAugment), --train-pairs 1 6 adds short pieces;
the joined strings may then by chance equal a string of a test split, which this file cannot rule out.

Data: https://github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0); its own
test split is indices 0-4.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Optional

import mustc_layout as layout
import numpy as np
import soundfile
from digit_strings import DigitSpeaker, draw_strings
from fsdd import (
    OPTION,
    check_digits,
    find_recordings,
    parse_indices,
    read_waveform,
    split_recordings,
)
from german_numbers import ENGLISH_DIGITS, english_digits, german_pairs
from output_folder import complete_folder
from tqdm import tqdm

DRAWING_ORDER = ("tst-COMMON", "dev", "train")  # a later split takes no string of an earlier one
LEVEL = {"peak": -3.0, "rms": -26.0}  # dB below full scale; -26 is the speech level of ITU-T P.56


def build_corpus(args: argparse.Namespace) -> None:
    """Checks the options, then writes the corpus to args.out; raises as the checks do."""
    unit, lengths_option = (2, "pairs") if args.task == "st" else (1, "digits")
    lengths = {split: getattr(args, f"{OPTION[split]}_{lengths_option}") for split in layout.SPLITS}
    numbers = {split: getattr(args, f"{OPTION[split]}_utterances") for split in layout.SPLITS}
    for split, (shortest, longest) in lengths.items():
        layout.count_option(f"--{OPTION[split]}-utterances", numbers[split])
        if not 1 <= shortest <= longest:
            option = f"--{OPTION[split]}-{lengths_option}"
            raise ValueError(f"{option} {shortest} {longest}: expected 1 <= fewest <= most")
    pause = layout.seconds_range("--pause", args.pause)
    edge = layout.seconds_range("--edge-pause", args.edge_pause) if args.edge_pause else None
    talk_pause = layout.check_layout_arguments(args)
    if args.task == "asr" and args.sample_rate == 8000:
        raise ValueError("--sample-rate 8000: fairseq's task audio_finetuning expects 16000")
    sample_rate = args.sample_rate or {"st": 8000, "asr": 16000}[args.task]
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
        # there are too few short strings for each split to have its own
        earlier = strings.values() if args.task == "st" else ()
        avoid = {string for others in earlier for string in others}
        strings[split] = draw_strings(numbers[split], lengths[split], avoid, rngs[split], unit)

    with complete_folder(args.out / layout.PAIR if args.task == "st" else args.out, args.overwrite) as folder:
        level = LEVEL.get(args.normalize, 0.0) if args.level is None else args.level
        used = {recording.path for split in written for recording in parts[split]}
        waveforms = {
            path: read_waveform(
                path, sample_rate, normalize=args.normalize, level=level, trim_db=args.trim_db
            )
            for path in sorted(used)
        }
        speak = {
            split: DigitSpeaker(parts[split], waveforms, sample_rate, pause, edge, rngs[split])
            for split in written
        }
        if args.task == "st":
            sizes = {}
            for split in written:
                talks = make_talks(
                    strings[split], voices[split], args.utterances_per_talk, speak[split], split
                )
                sizes[split] = layout.write_split(
                    folder / "data", split, talks, sample_rate, talk_pause, rngs[split]
                )
        else:
            sizes = write_recognition(folder, args.out.resolve(), strings, voices, speak)

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


def make_talks(strings, voices, utterances_per_talk: int, speak: DigitSpeaker, title: str):
    """Talks of strings, in German too."""

    def utterance(string: str, speaker: str) -> layout.Utterance:
        digits = [int(character) for character in string]
        return layout.Utterance(speak(string, speaker), english_digits(digits), german_pairs(digits))

    return layout.make_talks(strings, voices, utterances_per_talk, utterance, title)


def write_recognition(
    folder: Path,
    final: Path,
    strings: dict[str, list[str]],
    voices: dict[str, list[str]],
    speak: dict[str, DigitSpeaker],
) -> dict[str, layout.SplitSize]:
    """Writes a file an utterance, the speakers taking turns, and manifests with letters, as of LibriSpeech.

    final: where `folder` will be in the end.
    """
    # here, since it imports fairseq, which takes seconds
    from fairseq_prune.data import labelled_audio
    from fairseq_prune.data.audio import SAMPLE_RATE
    from fairseq_prune.text.dictionaries import write_dictionary

    sizes, counts = {}, Counter()
    for split, texts in strings.items():
        name = OPTION[split]
        audio = folder / "audio" / name
        audio.mkdir(parents=True)
        utterances = []
        for number, string in enumerate(tqdm(texts, desc=name, unit=" utterances", mininterval=0.5)):
            speaker = voices[split][number % len(voices[split])]
            waveform = np.clip(speak[split](string, speaker), -1, 1)
            path = f"{name}/{speaker}-{number:05d}.flac"
            soundfile.write(folder / "audio" / path, waveform, SAMPLE_RATE, subtype="PCM_16")
            text = english_digits([int(digit) for digit in string]).upper()
            utterances.append(
                labelled_audio.Labelled(path, len(waveform), labelled_audio.letters(text), text)
            )
        labelled_audio.write_split(folder, name, final / "audio", utterances)
        counts += labelled_audio.count_labels(utterances)
        samples = sum(utterance.samples for utterance in utterances)
        sizes[split] = layout.SplitSize(len(texts), len(texts), samples / SAMPLE_RATE)
    labels = [letter for letter in labelled_audio.ENGLISH_LETTERS if counts[letter]]
    write_dictionary(folder / "dict.ltr.txt", labels, counts)
    digits = Counter(digit for texts in strings.values() for string in texts for digit in string)
    named = {ENGLISH_DIGITS[int(digit)].upper(): count for digit, count in sorted(digits.items())}
    write_dictionary(folder / "dict.wrd.txt", named, Counter(named))
    return sizes


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--fsdd", type=Path, required=True, metavar="DIR", help="folder of {digit}_{speaker}_{index}.wav"
    )
    parser.add_argument(
        "--task", choices=("st", "asr"), default="st", help="translation or recognition (%(default)s)"
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
            f"--{name}-utterances", type=int, default=utterances, metavar="N", help="how many (%(default)s)"
        )
        layout.add_range(parser, f"--{name}-pairs", (2, 6), "--task st: pairs of digits in an utterance")
        layout.add_range(parser, f"--{name}-digits", (1, 4), "--task asr: digits in an utterance")
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
        "--sample-rate", type=int, choices=(8000, 16000), help="of the audio (st 8000, asr 16000)"
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
