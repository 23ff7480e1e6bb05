"""Lists folders of audio for training without text, as manifests in wav2vec's form.

Writes  OUT/NAME.tsv      the folder, then each file below it with its number of samples at 16 kHz
        OUT/skipped.tsv   with --skip-bad: the files that were left out, and why

Any folder:         prep_audio.py --audio FOLDER --out OUT --valid-share 0.01         train.tsv, valid.tsv
                    --valid-audio FOLDER holds out a folder instead of a share
LibriSpeech:        prep_audio.py --librispeech ROOT --out OUT --subsets train960 valid
                    ROOT holds train-clean-100 and so on; train100 is that one, train960 the three train-*,
                    valid is dev-clean and dev-other, and other names are those of its folders

The task ssl_distillation takes any format that soundfile reads and any sample rate. It resamples while it reads.
fairseq's own pretraining wants 16 kHz: --convert writes such copies (16-bit FLAC, mono) to OUT/audio/NAME and lists
those.
OUT appears when all of it is complete.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.data.waveform_manifest import write_waveform_manifest
from fairseq_prune.files import complete_folder
from fairseq_prune.preparation.audio_files import AudioFiles, Skipped
from fairseq_prune.preparation.options import add_audio_reading, add_output, add_seed

LIBRISPEECH = {
    "train100": ["train-clean-100"],
    "train960": ["train-clean-100", "train-clean-360", "train-other-500"],
    "valid": ["dev-clean", "dev-other"],
}
EXTENSIONS = "wav,flac,ogg,mp3"


def find_audio(root: Path, folders: "list[str]", extensions: "set[str]") -> "list[str]":
    """Audio files below folders of a root, in order, as paths from the root.

    Raises:
        FileNotFoundError: no such folder, or no audio in it.
    """
    names = []
    for folder in folders:
        if not (root / folder).is_dir():
            raise FileNotFoundError(f"{root / folder}: no such folder")
        found = sorted(
            os.path.relpath(Path(parent) / file, root)
            for parent, _, files in os.walk(root / folder, followlinks=True)
            for file in files
            if Path(file).suffix.lower().lstrip(".") in extensions
        )
        if not found:
            raise FileNotFoundError(f"{root / folder}: no file that ends in {', '.join(sorted(extensions))}")
        names += found
    return names


def split(names: "list[str]", valid_share: float, seed: int) -> "dict[str, list[str]]":
    """A random share of the files, at least one, becomes `valid`, the others `train`."""
    if valid_share == 0:
        return {"train": names}
    if len(names) < 2:
        raise ValueError(f"--valid-share {valid_share}: one file alone cannot be split")
    held_out = np.zeros(len(names), dtype=bool)
    count = min(len(names) - 1, max(1, round(valid_share * len(names))))
    held_out[np.random.default_rng(seed).permutation(len(names))[:count]] = True
    return {
        "train": [name for name, out in zip(names, held_out) if not out],
        "valid": [name for name, out in zip(names, held_out) if out],
    }


def find_splits(args) -> "dict[str, tuple[Path, list[str]]]":
    """The folder and the files of each split."""
    if args.librispeech is not None:
        chosen = {name: LIBRISPEECH.get(name, [name]) for name in args.subsets}
        return {
            name: (args.librispeech, find_audio(args.librispeech, folders, {"flac"}))
            for name, folders in chosen.items()
        }
    extensions = set(args.extensions.lower().split(","))
    names = find_audio(args.audio, ["."], extensions)
    if args.valid_audio:
        held_out = find_audio(args.valid_audio, ["."], extensions)
        return {"train": (args.audio, names), "valid": (args.valid_audio, held_out)}
    parts = split(names, args.valid_share, args.seed)
    return {name: (args.audio, files) for name, files in parts.items()}


def prepare(args) -> None:
    """Make the data folder ``args.out``."""
    splits, skipped = find_splits(args), Skipped(args.skip_bad)
    with complete_folder(args.out, args.overwrite) as folder:
        audio = AudioFiles(args, folder, skipped)
        for name, (root, paths) in splits.items():
            files = [file for file in audio.measure(name, root, paths) if file]
            samples = [file.samples for file in files]
            write_waveform_manifest(
                folder / f"{name}.tsv", audio.root(name, root), [file.path for file in files], samples
            )
            hours = sum(samples) / SAMPLE_RATE / 3600
            shortest, longest = (value / SAMPLE_RATE for value in (min(samples), max(samples)))
            print(f"{name}: {len(files):,} files, {hours:.2f} h, {shortest:.1f} to {longest:.1f} s each")
        skipped.write(folder)


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected 0 or more and below 1")
    return value


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--audio", type=Path, help="folder of audio, searched with its subfolders")
    source.add_argument("--librispeech", type=Path, help="folder that holds train-clean-100 and so on")
    add("--subsets", nargs="+", default=["train960", "valid"], help="of LibriSpeech (train960 valid)")
    add_output(parser)
    add("--valid-share", type=share, default=0.01, help="of --audio: files held out as valid (%(default)s)")
    add("--valid-audio", type=Path, help="another folder of audio, all of which becomes valid")
    add_seed(parser, "of what is held out")
    add("--extensions", default=EXTENSIONS, help="endings of files in --audio (%(default)s)")
    add_audio_reading(parser)
    return parser


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
