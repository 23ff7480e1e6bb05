"""Utterances of manifests in noise and in rooms: more to train on, or a harder test.

    make_noisy.py data/train.tsv spoken/train.tsv --copies 2 --rooms 0.4 --babble speech/train --out noisy
    make_noisy.py data/test.tsv --each --babble speech/test --out noisy_test

By default each utterance is copied --copies times, into a noise and a ratio of signal to noise that are drawn; --each
copies it once into each noise at each ratio, 3 dB apart. Noises are pink noise and, with --babble, people who speak at
once. --trim cuts what the level says is no speech off both ends of the copies, as the endpointer of a device does; with
--clean 1 it does that alone. OUT gets one manifest, which is called as the first one, and the copies.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.acoustics import add_noise, babble, in_room, pink_noise, speech_span
from fairseq_prune.data.audio import SAMPLE_RATE, read_audio, write_audio
from fairseq_prune.data.manifest import Utterance, check_audio, read_manifest, write_manifest
from fairseq_prune.files import complete_folder
from fairseq_prune.preparation.layouts.mustc import add_range
from fairseq_prune.preparation.options import add_output, add_seed, whole_number

STEP = 3  # dB between the ratios of --each
TALKERS = (3, 8)  # of babble
DECAY, DIRECT = (0.15, 0.6), (0.0, 12.0)  # of rooms: seconds, dB
PINK, BABBLE, NONE = "pink", "babble", "clean"


class Condition(NamedTuple):
    """What is added to an utterance: a noise (or none) at a ratio in dB, a room or none; ``name`` is part of its id."""

    name: str
    noise: str
    snr: float = 0.0
    room: bool = False


def draw(args: argparse.Namespace, noises: list[str], rng: np.random.Generator) -> Iterator[Condition]:
    """The copies of an utterance, drawn."""
    for copy in range(args.copies):
        noise = NONE if rng.random() < args.clean else str(rng.choice(noises))
        yield Condition(str(copy), noise, float(rng.uniform(*args.snr)), rng.random() < args.rooms)


def each(args: argparse.Namespace, noises: list[str]) -> list[Condition]:
    """Each noise at each ratio, for --each."""
    ratios = np.arange(args.snr[0], args.snr[1] + 1e-6, STEP)
    return [Condition(f"{noise}-{ratio:g}dB", noise, float(ratio)) for noise in noises for ratio in ratios]


def degrade(
    waveform: np.ndarray, condition: Condition, speech: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """The waveform ``(samples,)`` in a condition; ``speech`` is what babble is made of."""
    if condition.room:
        waveform = in_room(waveform, rng.uniform(*DECAY), rng.uniform(*DIRECT), rng)
    if condition.noise == PINK:
        return add_noise(waveform, pink_noise(len(waveform), rng), condition.snr)
    if condition.noise == BABBLE:
        count = min(len(speech), int(rng.integers(TALKERS[0], TALKERS[1] + 1)))
        talkers = [speech[place] for place in rng.choice(len(speech), count, replace=False)]
        return add_noise(waveform, babble(talkers, len(waveform), rng), condition.snr)
    return waveform


def read_speech(folder: Path) -> list[np.ndarray]:
    """The waveforms of a folder of recordings.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has fewer recordings than babble needs.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--babble {folder}: no such folder")
    paths = sorted(path for ending in ("flac", "wav") for path in folder.rglob(f"*.{ending}"))
    if len(paths) < TALKERS[0]:
        raise ValueError(
            f"--babble {folder}: found {len(paths)} recordings (.flac, .wav), expected {TALKERS[0]} or more"
        )
    return [read_audio(path) for path in paths]


def read_all(manifests: list[Path]) -> list[Utterance]:
    """The utterances of all manifests, with absolute paths.

    Raises:
        FileNotFoundError, ValueError: names the manifest or the audio file, and what is wrong with it.
    """
    rows, first = [], {}
    for manifest in manifests:
        root = manifest.parent.resolve()
        for row in read_manifest(manifest):
            if first.setdefault(row.id, manifest) != manifest:
                raise ValueError(f"{manifest}: the id {row.id} is also in {first[row.id]}")
            rows.append(row._replace(audio=str(root / row.audio)))
    check_audio(rows, "/")
    return rows


def prepare(args: argparse.Namespace) -> None:
    """Check the options, then write the folder ``args.out``; raises as the checks do."""
    for option in ("clean", "rooms"):
        if not 0 <= getattr(args, option) <= 1:
            raise ValueError(f"--{option} {getattr(args, option)}: expected a share, from 0 to 1")
    if args.snr[0] > args.snr[1]:
        raise ValueError(f"--snr {args.snr[0]:g} {args.snr[1]:g}: expected MIN <= MAX")
    rows = read_all(args.manifests)
    speech = read_speech(args.babble) if args.babble else []
    noises = [PINK, BABBLE] if speech else [PINK]
    name = args.manifests[0].stem
    with complete_folder(args.out, args.overwrite) as folder:
        (folder / "audio").mkdir()
        written = []
        for place, row in enumerate(tqdm(rows, desc=name, unit="utterance", disable=None)):
            rng = np.random.default_rng((args.seed, place))
            waveform = read_audio(row.audio, row.offset, row.n_frames)
            for condition in each(args, noises) if args.each else draw(args, noises, rng):
                heard = degrade(waveform, condition, speech, rng)
                start, stop = speech_span(heard) if args.trim else (0, len(heard))
                file = f"{place:06d}-{condition.name}.flac"
                write_audio(folder / "audio" / file, heard[start:stop], SAMPLE_RATE)
                written.append(
                    row._replace(
                        id=f"{row.id}-{condition.name}",
                        audio=str(args.out.resolve() / "audio" / file),
                        offset=0,
                        n_frames=stop - start,
                    )
                )
        write_manifest(folder / f"{name}.tsv", written)
    hours = sum(row.n_frames for row in written) / SAMPLE_RATE / 3600
    print(f"{args.out}: {len(written):,} utterances of {len(rows):,}, {hours:.2f} h")


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add(
        "manifests", nargs="+", type=Path, metavar="MANIFEST", help="manifests of prep_*.py or make_speech.py"
    )
    add_output(parser, "folder to write")
    add("--copies", type=whole_number(1), default=1, metavar="N", help="of each utterance (%(default)s)")
    add("--each", action="store_true", help="one copy for each noise and each ratio instead")
    add_range(parser, "--snr", (6.0, 24.0), "ratio of speech to noise, in dB")
    add("--clean", type=float, default=0.0, metavar="SHARE", help="of the copies without noise (%(default)s)")
    add("--rooms", type=float, default=0.0, metavar="SHARE", help="of the copies in a room (%(default)s)")
    add("--babble", type=Path, metavar="DIR", help="folder of recordings that babble is made of")
    add("--trim", action="store_true", help="cut the silence off both ends of the copies")
    add_seed(parser, "of noises, ratios and rooms")
    return parser


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
