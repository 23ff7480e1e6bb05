"""What a corpus of digits will be: options and recordings checked, recordings shared out, strings drawn."""

import argparse
from dataclasses import dataclass

import numpy as np

from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.preparation.layouts import mustc as layout
from fairseq_prune.preparation.synthesis.digit_strings import draw_strings
from fairseq_prune.preparation.synthesis.fsdd import (
    OPTION,
    Recording,
    check_digits,
    find_recordings,
    parse_indices,
    split_recordings,
)

DRAWING_ORDER = ("tst-COMMON", "dev", "train")  # a later split takes no string of an earlier one


@dataclass
class Plan:
    """What a corpus will be, all options checked; dicts are by split, and have the splits that are written."""

    recordings: list[Recording]  # all of the folder
    parts: dict[str, list[Recording]]  # by every split; empty for one that is not written
    voices: dict[str, list[str]]
    strings: dict[str, list[str]]
    rngs: dict[str, np.random.Generator]
    sample_rate: int

    @property
    def written(self) -> list[str]:
        return list(self.strings)


def plan_corpus(args: argparse.Namespace) -> Plan:
    """Check the options and the recordings, and draw the strings.

    Raises:
        ValueError, FileNotFoundError: names the option or the file.
    """
    sample_rate = check_sound(args)
    unit, lengths = check_lengths(args)
    recordings = find_recordings(args.fsdd)
    parts = share_recordings(args, recordings)
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
        number = getattr(args, f"{OPTION[split]}_utterances")
        strings[split] = draw_strings(number, lengths[split], avoid, rngs[split], unit)
    return Plan(recordings, parts, voices, strings, rngs, sample_rate)


def check_sound(args: argparse.Namespace) -> int:
    """The sample rate; raises `ValueError` naming an option of how the corpus sounds."""
    layout.seconds_range("--pause", args.pause)
    layout.seconds_range("--talk-pause", args.talk_pause)
    if args.edge_pause is not None:
        layout.seconds_range("--edge-pause", args.edge_pause)
    if args.task == "asr" and args.sample_rate == 8000:
        raise ValueError("--sample-rate 8000: fairseq's task audio_finetuning expects 16000")
    if args.trim_db is not None and not args.trim_db > 0:
        raise ValueError(f"--trim-db {args.trim_db:g}: expected more than 0 dB")
    if args.level is not None and (args.normalize == "none" or not args.level <= 0):
        raise ValueError(f"--level {args.level:g}: expected 0 dBFS or less, with --normalize peak or rms")
    return args.sample_rate or {"st": 8000, "asr": SAMPLE_RATE}[args.task]


def check_lengths(args: argparse.Namespace) -> tuple[int, dict[str, tuple[int, int]]]:
    """Digits in a unit, and the fewest and most units of an utterance by split; raises `ValueError`."""
    unit, option = (2, "pairs") if args.task == "st" else (1, "digits")
    lengths = {split: getattr(args, f"{OPTION[split]}_{option}") for split in layout.SPLITS}
    for split, (shortest, longest) in lengths.items():
        if not 1 <= shortest <= longest:
            raise ValueError(f"--{OPTION[split]}-{option} {shortest} {longest}: expected 1 <= fewest <= most")
    return unit, lengths


def share_recordings(args: argparse.Namespace, recordings: list[Recording]) -> dict[str, list[Recording]]:
    """The recordings of each split; raises `ValueError` naming the option."""
    everyone = args.speakers or sorted({recording.speaker for recording in recordings})
    speakers, indices = {}, {}
    for split in layout.SPLITS:
        speakers[split] = getattr(args, f"{OPTION[split]}_speakers") or everyone
        text = getattr(args, f"{OPTION[split]}_indices")
        indices[split] = None if text == "rest" else parse_indices(f"--{OPTION[split]}-indices", text)
    return split_recordings(recordings, speakers, indices)
