#!/usr/bin/env python3
"""Lists folders of audio for training without text, as wav2vec-style manifests.

Writes  OUT/NAME.tsv      the folder, then each file below it with its number of samples at 16 kHz

Any folder:         prep_audio.py --audio FOLDER --out OUT --valid-share 0.01         train.tsv, valid.tsv
                    --valid-audio FOLDER holds out a folder instead of a share
LibriSpeech:        prep_audio.py --librispeech ROOT --out OUT --subsets train960 valid
                    ROOT holds train-clean-100 and so on; train100 is that one, train960 the three train-*,
                    valid is dev-clean and dev-other, and other names are those of its folders

Any format that soundfile reads and any sample rate serve the task ssl_distillation, which resamples while it reads.
fairseq's own pretraining wants 16 kHz: --convert writes such copies (16-bit FLAC, mono) to OUT/audio/NAME, and lists
those.
OUT appears when all of it is complete.
"""

import argparse
import functools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

import numpy as np
import soundfile
from output_folder import complete_folder
from tqdm import tqdm

from fairseq_prune.data.audio import SAMPLE_RATE, audio_info, read_audio
from fairseq_prune.data.waveform_manifest import write_waveform_manifest

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


def measure(root: Path, name: str, copies: "Optional[Path]" = None) -> "tuple[str, int]":
    """The row of a file: its path and its samples at 16 kHz; of its copy, if one is to be written."""
    if copies is None:
        return name, audio_info(root / name).n_samples
    waveform = read_audio(root / name)
    copy = Path(name).with_suffix(".flac")
    (copies / copy).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(copies / copy, np.clip(waveform, -1, 1), SAMPLE_RATE, subtype="PCM_16")
    return str(copy), len(waveform)


def check_copies(names: "list[str]") -> None:
    """Raise ValueError if the copies of two files would have one name."""
    first: dict[Path, str] = {}
    for name in names:
        other = first.setdefault(Path(name).with_suffix(".flac"), name)
        if other != name:
            raise ValueError(
                f"--convert: {other} and {name} would both become {Path(name).with_suffix('.flac')}"
            )


def prepare(args) -> None:
    extensions = set(args.extensions.lower().split(","))
    if args.librispeech is not None:
        chosen = {name: LIBRISPEECH.get(name, [name]) for name in args.subsets}
        splits = {
            name: (args.librispeech, find_audio(args.librispeech, folders, {"flac"}))
            for name, folders in chosen.items()
        }
    else:
        names = find_audio(args.audio, ["."], extensions)
        parts = {"train": names} if args.valid_audio else split(names, args.valid_share, args.seed)
        splits = {name: (args.audio, files) for name, files in parts.items()}
        if args.valid_audio:
            splits["valid"] = (args.valid_audio, find_audio(args.valid_audio, ["."], extensions))
    with complete_folder(args.out, args.overwrite) as folder:
        audio = folder / "audio"
        for name, (root, files) in splits.items():
            # copies lie in a folder of their split: two roots may have files of one name
            copies = audio / name if args.convert else None
            if copies is not None:
                check_copies(files)
            with ThreadPoolExecutor(args.threads) as pool:
                rows = pool.map(functools.partial(measure, root, copies=copies), files)
                paths, samples = zip(*tqdm(rows, name, len(files), unit="file", disable=None))
            start = args.out.resolve() / "audio" / name if args.convert else root.resolve()
            write_waveform_manifest(folder / f"{name}.tsv", start, paths, samples)
            hours = sum(samples) / SAMPLE_RATE / 3600
            seconds = [min(samples) / SAMPLE_RATE, max(samples) / SAMPLE_RATE]
            print(f"{name}: {len(paths):,} files, {hours:.2f} h, {seconds[0]:.1f} to {seconds[1]:.1f} s each")


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected 0 or more and below 1")
    return value


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--audio", type=Path, help="folder of audio, searched with its subfolders")
    source.add_argument("--librispeech", type=Path, help="folder that holds train-clean-100 and so on")
    add("--subsets", nargs="+", default=["train960", "valid"], help="of LibriSpeech (train960 valid)")
    add("--out", type=Path, required=True, help="folder to make, the DATA of fairseq-train")
    add("--overwrite", action="store_true", help="replace an --out that exists")
    add("--valid-share", type=share, default=0.01, help="of --audio: files held out as valid (%(default)s)")
    add("--valid-audio", type=Path, help="folder of --audio's kind that becomes valid as a whole")
    add("--seed", type=int, default=1, help="of what is held out (%(default)s)")
    add("--extensions", default=EXTENSIONS, help="endings of files in --audio (%(default)s)")
    add("--convert", action="store_true", help="write 16 kHz copies to OUT/audio and list those")
    add("--threads", type=int, default=8, help="files read at a time (%(default)s)")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    try:
        prepare(parse_args(argv))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
