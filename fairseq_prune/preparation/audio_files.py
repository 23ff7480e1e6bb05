"""The audio of a corpus in a preparation: measured and checked in threads, converted on request, bad files listed."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Callable, NamedTuple, Optional, TypeVar

from tqdm import tqdm

from fairseq_prune.data.audio import SAMPLE_RATE, audio_info, inspect_audio, read_and_hear, write_audio
from fairseq_prune.text.lines import require_line, write_lines

SKIPPED = "skipped.tsv"
END_TOLERANCE = SAMPLE_RATE // 20  # samples; a segment that ends this little after its file is cut there
Item = TypeVar("Item")
Result = TypeVar("Result")


class AudioFile(NamedTuple):
    """A path from the folder that a manifest starts from, its samples at 16 kHz, and why it is silent (or empty)."""

    path: str
    samples: int
    silence: str = ""


class Skipped:
    """What is wrong with rows and files. The first one is an error, unless --skip-bad leaves them out."""

    def __init__(self, skip_bad: bool):
        self.skip_bad = skip_bad
        self.rows: list[tuple[str, str]] = []

    def add(self, split: str, problem: object) -> None:
        """Leave something out.

        Raises:
            ValueError: --skip-bad is off.
        """
        if not self.skip_bad:
            raise ValueError(f"{problem} (--skip-bad leaves such out)")
        self.rows.append((split, " ".join(str(problem).split())))

    def write(self, folder: Path) -> None:
        """List all of it in ``folder`` and print how many; nothing if all was good."""
        if self.rows:
            lines = (f"{split}\t{require_line(problem, split, tabs=False)}" for split, problem in self.rows)
            write_lines(folder / SKIPPED, ["split\tproblem", *lines])
            print(f"{len(self.rows):,} left out, listed in {SKIPPED}; the first: {self.rows[0][1]}")


class AudioFiles:
    """Measures the audio files of a corpus.

    Args:
        args: with the options of `options.add_audio_reading`
        folder: of the output while it is written; ``args.out`` is where it will be
        skipped: takes the bad files, and has what was found to be bad before
    """

    def __init__(self, args: argparse.Namespace, folder: Path, skipped: Skipped):
        self.threads, self.headers_only, self.skipped = args.threads, args.headers_only, skipped
        self.copies = folder / "audio" if getattr(args, "convert", False) else None
        self.final_copies = args.out.resolve() / "audio"

    def root(self, split: str, root: Path) -> Path:
        """The folder that the paths of a split start from: ``root``, or that of its copies."""
        # copies lie in a folder of their split, since two roots may have files of one name
        return root.resolve() if self.copies is None else self.final_copies / split

    def measure(
        self,
        split: str,
        root: Path,
        paths: Sequence[str],
        for_fairseq: bool = False,
        wheres: Optional[Sequence[str]] = None,
    ) -> list[Optional[AudioFile]]:
        """The files of a split in their order, or their copies; None for a file that is left out.

        Args:
            paths: from ``root``
            for_fairseq: refuse what fairseq's own tasks do not read, another rate than 16 kHz
            wheres: which rows name the files, for the errors

        Raises:
            ValueError: the first bad file, unless --skip-bad is on.
        """
        if self.copies is not None:
            check_copies(paths)
            segments = [(path, str(Path(path).with_suffix("")), 0, -1) for path in paths]
            return self.cut(split, root, segments, wheres)

        def look(path: str) -> AudioFile:
            info = (audio_info if self.headers_only else inspect_audio)(root / path)
            if for_fairseq and info.file_rate != SAMPLE_RATE:
                raise ValueError(
                    f"{root / path}: {info.file_rate} Hz, but fairseq wants {SAMPLE_RATE}; give --convert"
                )
            return AudioFile(path, info.n_samples, info.silence)

        return self._look_at_all(split, root, paths, look, paths, wheres)

    def cut(
        self,
        split: str,
        root: Path,
        segments: Sequence[tuple[str, str, int, int]],
        wheres: Optional[Sequence[str]] = None,
    ) -> list[Optional[AudioFile]]:
        """Copies of segments, at 16 kHz; None for one that is left out.

        Args:
            segments: path from ``root``, name of the copy, first sample, number of samples (-1: to the end)

        Raises:
            ValueError: the first bad one, unless --skip-bad is on.
        """

        def copy(segment: tuple[str, str, int, int]) -> AudioFile:
            path, name, offset, n_samples = segment
            length = audio_info(root / path).n_samples
            if length < offset + n_samples <= length + END_TOLERANCE:
                n_samples = length - offset
            waveform, silence = read_and_hear(root / path, offset, n_samples)
            target = self.copies / split / f"{name}.flac"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_audio(target, waveform, SAMPLE_RATE)
            return AudioFile(f"{name}.flac", len(waveform), silence)

        return self._look_at_all(split, root, segments, copy, [segment[0] for segment in segments], wheres)

    def _look_at_all(
        self,
        split: str,
        root: Path,
        items: Sequence[Item],
        look: Callable,
        paths: Sequence[str],
        wheres: Optional[Sequence[str]],
    ) -> list[Optional[AudioFile]]:
        def try_to_look(item: Item):
            try:
                return look(item)
            except (ValueError, FileNotFoundError) as error:
                return error

        found, silent = [], []
        # closed before an error goes on, and removes the folder that the threads write to
        with closing(in_threads(try_to_look, items, self.threads, split)) as seen_all:
            for number, (path, seen) in enumerate(zip(paths, seen_all)):
                if isinstance(seen, AudioFile) and not (seen.silence and self.skipped.skip_bad):
                    found.append(seen)
                    if seen.silence:
                        silent.append(f"{root / path}: {seen.silence}")
                else:
                    problem = seen if isinstance(seen, Exception) else f"{root / path}: {seen.silence}"
                    self.skipped.add(split, f"{wheres[number]}: {problem}" if wheres else problem)
                    found.append(None)
        if silent:
            print(f"warning: {silent[0]} ({len(silent):,} such files in {split}; --skip-bad leaves them out)")
        if not any(found):
            raise ValueError(f"{split}: no file is left of {len(found):,}")
        return found


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, title: str
) -> Iterator[Result]:
    """``function`` of each item, in order, with a progress bar. After an error or Ctrl-C no further item is begun."""
    items = list(items)
    pool = ThreadPoolExecutor(threads)
    try:
        yield from tqdm(pool.map(function, items), title, len(items), unit="file", disable=None)
    finally:
        pool.shutdown(cancel_futures=True)


def check_copies(paths: Iterable[str]) -> None:
    """Raise ValueError if the copies of two files would have one name."""
    first: dict[Path, str] = {}
    for path in paths:
        copy = Path(path).with_suffix(".flac")
        other = first.setdefault(copy, path)
        if other != path:
            raise ValueError(f"--convert: {other} and {path} would both become {copy}")
