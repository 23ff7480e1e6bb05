"""Options that several preparations have."""

import argparse
from pathlib import Path

from fairseq_prune.command_line import PlainParser


def add_output(parser: PlainParser, what: str = "folder to make, the DATA of fairseq-train") -> None:
    """--out and --overwrite."""
    parser.add_argument("--out", type=Path, required=True, help=what)
    parser.add_argument("--overwrite", action="store_true", help="replace an --out that exists")


def add_seed(parser: PlainParser, what: str) -> None:
    """--seed, a number of 0 or more."""
    parser.add_argument("--seed", type=whole_number(0), default=1, help=f"{what} (%(default)s)")


def add_audio_reading(parser: PlainParser, convert: bool = True) -> None:
    """The options of `audio_files.AudioFiles`."""
    add = parser.add_argument
    if convert:
        add("--convert", action="store_true", help="write 16 kHz copies (FLAC) to OUT/audio and list those")
    add("--threads", type=whole_number(1), default=8, help="files read at a time (%(default)s)")
    add(
        "--headers-only",
        action="store_true",
        help="believe the headers of the audio files; without this option every sample is read and checked",
    )
    add(
        "--skip-bad",
        action="store_true",
        help="leave bad rows and bad or silent audio out, and list them in OUT/skipped.tsv; without this option "
        "the first bad one stops the preparation",
    )


def whole_number(least: int):
    """For argparse: a whole number that is not below ``least``."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of {least} or more")
        return value

    return convert
