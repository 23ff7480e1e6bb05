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
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data import labelled_audio
from fairseq_prune.data.audio import SAMPLE_RATE, write_audio
from fairseq_prune.files import complete_folder
from fairseq_prune.preparation.layouts import mustc as layout
from fairseq_prune.preparation.options import whole_number
from fairseq_prune.preparation.synthesis.digit_plan import Plan, plan_corpus
from fairseq_prune.preparation.synthesis.digit_strings import DigitSpeaker
from fairseq_prune.preparation.synthesis.fsdd import OPTION, read_waveform
from fairseq_prune.preparation.synthesis.german_numbers import ENGLISH_DIGITS, english_digits, german_pairs

LEVEL = {"peak": -3.0, "rms": -26.0}  # dB below full scale; -26 is the speech level of ITU-T P.56


def make_speakers(args: argparse.Namespace, plan: Plan) -> dict[str, DigitSpeaker]:
    """Who speaks the strings of each split."""
    level = LEVEL.get(args.normalize, 0.0) if args.level is None else args.level
    used = {recording.path for split in plan.written for recording in plan.parts[split]}
    waveforms = {
        path: read_waveform(
            path, plan.sample_rate, normalize=args.normalize, level=level, trim_db=args.trim_db
        )
        for path in sorted(used)
    }
    return {
        split: DigitSpeaker(
            plan.parts[split], waveforms, plan.sample_rate, args.pause, args.edge_pause, plan.rngs[split]
        )
        for split in plan.written
    }


def prepare(args: argparse.Namespace) -> None:
    """Write the corpus to ``args.out``."""
    plan = plan_corpus(args)
    with complete_folder(args.out / layout.PAIR if args.task == "st" else args.out, args.overwrite) as folder:
        speak = make_speakers(args, plan)
        if args.task == "st":
            sizes = write_translation(folder, args, plan, speak)
        else:
            sizes = write_recognition(folder, args.out.resolve(), plan, speak)
    print_report(args, plan, sizes)


def print_report(args: argparse.Namespace, plan: Plan, sizes: dict[str, layout.SplitSize]) -> None:
    """Sizes of the splits, strings that recur, and why a split is not written."""
    strings, written = plan.strings, plan.written
    layout.print_report(
        sizes,
        {
            "digits": {split: f"{sum(map(len, strings[split])):,}" for split in written},
            "distinct strings": {split: f"{len(set(strings[split])):,}" for split in written},
            "recordings": {split: f"{len(plan.parts[split]):,}" for split in written},
            "speakers": {split: " ".join(plan.voices[split]) for split in written},
        },
    )
    if "train" in written and len(written) > 1:
        common = {split: len(set(strings[split]) & set(strings["train"])) for split in written[:-1]}
        print(
            "digit strings that are also in train:", *(f"{split} {count}" for split, count in common.items())
        )
    for split in layout.SPLITS:
        if not plan.parts[split]:
            indices = sorted({recording.index for recording in plan.recordings})
            print(
                f"{split} is not written: no recording of its speakers has an index in "
                f"{getattr(args, f'{OPTION[split]}_indices')} (found {indices[0]} to {indices[-1]}); "
                f"see --{OPTION[split]}-indices"
            )


def write_translation(
    folder: Path, args: argparse.Namespace, plan: Plan, speak: dict[str, DigitSpeaker]
) -> dict[str, layout.SplitSize]:
    """Writes talks and their texts in the layout of MuST-C."""
    sizes = {}
    for split in plan.written:
        talks = make_talks(
            plan.strings[split], plan.voices[split], args.utterances_per_talk, speak[split], split
        )
        sizes[split] = layout.write_split(
            folder / "data", split, talks, plan.sample_rate, args.talk_pause, plan.rngs[split]
        )
    return sizes


def make_talks(strings, voices, utterances_per_talk: int, speak: DigitSpeaker, title: str):
    """Talks of strings, in German too."""

    def utterance(string: str, speaker: str) -> layout.Utterance:
        digits = [int(character) for character in string]
        return layout.Utterance(speak(string, speaker), english_digits(digits), german_pairs(digits))

    return layout.make_talks(strings, voices, utterances_per_talk, utterance, title)


def write_recognition(
    folder: Path, final: Path, plan: Plan, speak: dict[str, DigitSpeaker]
) -> dict[str, layout.SplitSize]:
    """Writes a file an utterance, the speakers taking turns, and manifests with letters, as of LibriSpeech.

    final: where `folder` will be in the end.
    """
    from fairseq_prune.text.dictionaries import (
        write_dictionary,  # here, since it imports fairseq, which takes seconds
    )

    sizes, counts = {}, Counter()
    for split, texts in plan.strings.items():
        name = OPTION[split]
        utterances = speak_files(folder / "audio", name, texts, plan.voices[split], speak[split])
        labelled_audio.write_split(folder, name, final / "audio", utterances)
        counts += labelled_audio.count_labels(utterances)
        samples = sum(utterance.samples for utterance in utterances)
        sizes[split] = layout.SplitSize(len(texts), len(texts), samples / SAMPLE_RATE)
    labels = [letter for letter in labelled_audio.ENGLISH_LETTERS if counts[letter]]
    write_dictionary(folder / "dict.ltr.txt", labels, counts)
    digits = Counter(digit for texts in plan.strings.values() for string in texts for digit in string)
    named = {ENGLISH_DIGITS[int(digit)].upper(): count for digit, count in sorted(digits.items())}
    write_dictionary(folder / "dict.wrd.txt", named, Counter(named))
    return sizes


def speak_files(
    audio: Path, name: str, strings: list[str], voices: list[str], speak: DigitSpeaker
) -> list[labelled_audio.Labelled]:
    """A FLAC file for each string, in the folder ``name`` of the audio."""
    (audio / name).mkdir(parents=True)
    utterances = []
    for number, string in enumerate(tqdm(strings, desc=name, unit=" utterances", mininterval=0.5)):
        speaker = voices[number % len(voices)]
        waveform = speak(string, speaker)
        path = f"{name}/{speaker}-{number:05d}.flac"
        write_audio(audio / path, waveform, SAMPLE_RATE)
        text = english_digits([int(digit) for digit in string]).upper()
        labels = labelled_audio.letters(text)
        utterances.append(labelled_audio.Labelled(path, len(waveform), labels, text))
    return utterances


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
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
            f"--{name}-utterances",
            type=whole_number(1),
            default=utterances,
            metavar="N",
            help="how many (%(default)s)",
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


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
