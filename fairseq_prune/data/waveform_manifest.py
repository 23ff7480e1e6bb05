"""Manifests of audio alone, in wav2vec's form: the folder in the first line, then a path and its samples a row."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fairseq_prune.text.lines import read_lines, require_line, write_lines


class WaveformManifest(NamedTuple):
    """root: folder that the paths start from. paths: of the files. samples: (files,), at 16 kHz."""

    root: Path
    paths: list[str]
    samples: np.ndarray


def write_waveform_manifest(path, root, paths: Sequence[str], samples: Sequence[int]) -> None:
    """Write a manifest.

    Raises:
        ValueError: a path holds a tab or a line break, which the format cannot express.
    """
    rows = (
        f"{require_line(name, f'{path}: the name of a file', tabs=False)}\t{count}"
        for name, count in zip(paths, samples)
    )
    write_lines(path, [str(root), *rows])


def read_waveform_manifest(path, threads: int = 16) -> WaveformManifest:
    """Read a manifest and check that its files exist; what is in them is checked when they are read.

    Raises:
        FileNotFoundError: there is no such manifest, or files of it are missing (names the first, and how many).
        ValueError: names the file, the line (the folder is line 1) and what is wrong with it.
    """
    path = Path(path)
    lines = read_lines(path, "manifest (data_prep/prep_audio.py makes one)")
    if len(lines) < 2:
        raise ValueError(f"{path}: expected a folder and a row a file, found {len(lines)} lines")
    # a relative folder starts where the manifest lies
    root = path.parent / lines[0]
    paths, samples = [], np.empty(len(lines) - 1, dtype=np.int64)
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if len(fields) != 2 or not (fields[1].isascii() and fields[1].isdigit()) or int(fields[1]) < 1:
            raise ValueError(
                f"{path}, line {number}: expected a path, a tab and a number of samples, found {line!r}"
            )
        paths.append(fields[0])
        samples[number - 2] = int(fields[1])
    with ThreadPoolExecutor(threads) as pool:
        missing = [
            name
            for name, there in zip(paths, pool.map(lambda name: (root / name).is_file(), paths))
            if not there
        ]
    if missing:
        others = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{path}: no such audio file: {root / missing[0]}{others}")
    return WaveformManifest(root, paths, samples)
