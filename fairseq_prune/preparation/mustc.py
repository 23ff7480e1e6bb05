"""Prepares MuST-C, or any corpus in its layout, for the task speech_translation.

Reads   ROOT/SRC-TGT/data/SPLIT/{wav/*.wav, txt/SPLIT.{yaml,SRC,TGT}}
Writes  OUT/SPLIT.tsv      a manifest a split; the audio stays where it is
        OUT/spm*.model, OUT/dict*.txt      vocabularies of the target, of the transcripts, and for CTC
        OUT/config.yaml    what the task reads first
        OUT/dropped.tsv    the segments that were left out, and why

OUT appears when all of it is complete. The length limits apply to splits whose name begins with "train" only,
since scores of a shortened test set cannot be compared.
"""

import os
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Optional

from tqdm import tqdm

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.audio import SAMPLE_RATE, audio_info, inspect_audio
from fairseq_prune.data.manifest import Utterance, write_manifest
from fairseq_prune.files import complete_folder
from fairseq_prune.preparation.audio_files import END_TOLERANCE
from fairseq_prune.preparation.layouts.mustc_segments import Segment, read_split
from fairseq_prune.preparation.options import add_output, whole_number
from fairseq_prune.preparation.processes import worker_processes
from fairseq_prune.preparation.vocabularies import (
    add_vocabulary_options,
    check_vocabulary_options,
    load_given,
    make_vocabularies,
    print_vocabularies,
    write_config,
)

DEFAULT_SPLITS = ("train", "dev", "tst-COMMON", "tst-HE")


class Limits(NamedTuple):
    """Shortest and longest segment, in samples."""

    shortest: int
    longest: int


class Dropped(NamedTuple):
    """A segment that is left out; ``bad`` ones are errors in the corpus."""

    split: str
    segment: int
    wav: str
    reason: str
    detail: str
    bad: bool


class SplitResult(NamedTuple):
    kept: list[Utterance]
    dropped: list[Dropped]


def check_talk(job: tuple) -> list:
    """The segments of one wav, each an utterance or what is wrong with it.

    Args:
        job: (folder of the split, split, audio root, limits or None, whether headers are believed, segments)
    """
    folder, split, audio_root, limits, headers_only, segments = job
    path = folder / "wav" / segments[0].wav
    try:
        info = (audio_info if headers_only else inspect_audio)(path)
        n_samples, problem = info.n_samples, ("silent wav", info.silence) if info.silence else None
    except FileNotFoundError:
        n_samples, problem = 0, ("missing wav", str(path))
    except ValueError as error:
        n_samples, problem = 0, ("unreadable wav", str(error))
    results = []
    for segment in segments:
        utterance, found = _check_segment(segment, n_samples, limits)
        found = problem or found
        if found is None:
            audio = path.relative_to(audio_root).as_posix()
            results.append(utterance._replace(id=f"{Path(segment.wav).stem}_{segment.number}", audio=audio))
        else:
            bad = found[0] not in ("too short", "too long")
            results.append(Dropped(split, segment.number, segment.wav, *found, bad))
    return results


def _check_segment(segment: Segment, n_samples: int, limits: Optional[Limits]):
    """The utterance of a segment (without id and audio), if it has one, and (reason, detail) to leave it out."""
    if segment.problem:
        return None, ("bad time", segment.problem)
    offset = round(segment.offset * SAMPLE_RATE)
    end = round((segment.offset + segment.duration) * SAMPLE_RATE)
    if n_samples < end <= n_samples + END_TOLERANCE:
        end = n_samples
    utterance = Utterance("", "", offset, end - offset, segment.src_text, segment.tgt_text, segment.speaker)
    seconds = f"{segment.duration:g} s"
    if not segment.tgt_text:
        return utterance, ("empty target", "")
    if utterance.n_frames < 1:
        return utterance, ("no audio", f"{seconds} at {segment.offset:g} s")
    if end > n_samples:
        detail = f"ends at {end / SAMPLE_RATE:g} s, the file at {n_samples / SAMPLE_RATE:g} s"
        return utterance, ("past the end of its file", detail)
    if limits is not None and utterance.n_frames < limits.shortest:
        return utterance, ("too short", seconds)
    if limits is not None and utterance.n_frames > limits.longest:
        return utterance, ("too long", seconds)
    return utterance, None


def prepare_split(args, audio_root: Path, split: str, pool) -> SplitResult:
    """Read and check a split.

    Raises:
        ValueError: the first bad segment, unless ``--skip-bad``; or nothing is left.
    """
    folder = audio_root / split
    limits = None
    if split.startswith("train"):
        limits = Limits(round(args.min_seconds * SAMPLE_RATE), round(args.max_seconds * SAMPLE_RATE))
    segments = read_split(folder, split, args.src_lang, args.tgt_lang, pool)
    talks = groupby(tqdm(segments, desc=f"{split}: reading", unit=" segments"), key=lambda s: s.wav)
    jobs = [(folder, split, audio_root, limits, args.headers_only, list(talk)) for _, talk in talks]
    checked = pool.map(check_talk, jobs, chunksize=4)
    kept, dropped = [], []
    for talk in tqdm(checked, desc=f"{split}: checking", unit=" talks", total=len(jobs)):
        for result in talk:
            (kept if isinstance(result, Utterance) else dropped).append(result)
    bad = [segment for segment in dropped if segment.bad]
    if bad and not args.skip_bad:
        first = bad[0]
        raise ValueError(
            f"{folder / 'txt' / split}.yaml, segment {first.segment} ({first.wav}): {first.reason} "
            f"{first.detail}".rstrip()
            + f"; {len(bad)} bad in {split}, --skip-bad leaves them out"
        )
    if not kept:
        raise ValueError(f"{folder}: no segment is left of {len(dropped)}")
    return SplitResult(kept, dropped)


def write_outputs(folder: Path, audio_root: Path, results: dict, vocabularies: dict) -> None:
    write_config(folder, audio_root, vocabularies)
    for split, result in results.items():
        write_manifest(folder / f"{split}.tsv", result.kept)
    with open(folder / "dropped.tsv", "w", encoding="utf-8") as file:
        print(*Dropped._fields[:-1], sep="\t", file=file)
        for result in results.values():
            for dropped in result.dropped:
                print(*dropped[:-1], sep="\t", file=file)


def print_report(results: dict, vocabularies: dict, absent: Iterable[str]) -> None:
    print(f"{'split':<12}{'hours':>9}{'kept':>10}{'dropped':>10}  why")
    for split, (kept, dropped) in results.items():
        hours = sum(utterance.n_frames for utterance in kept) / SAMPLE_RATE / 3600
        reasons = Counter(segment.reason for segment in dropped).most_common()
        why = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        print(f"{split:<12}{hours:>9.2f}{len(kept):>10,}{len(dropped):>10,}  {why}".rstrip())
    for split in absent:
        print(f"{split:<12}not in this corpus")
    print_vocabularies(vocabularies)


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add("--data-root", type=Path, required=True, help="folder that holds SRC-TGT/data")
    add("--tgt-lang", required=True, help="target language, e.g. de")
    add("--src-lang", default="en", help="source language (%(default)s)")
    add_output(parser, "data directory to make")
    add("--splits", nargs="+", help=f"default: those of {' '.join(DEFAULT_SPLITS)} that there are")
    add_vocabulary_options(parser)
    add("--min-seconds", type=float, default=0.1, help="leave shorter training segments out (%(default)s)")
    add("--max-seconds", type=float, default=30.0, help="leave longer training segments out (%(default)s)")
    add("--workers", type=whole_number(1), default=os.cpu_count(), help="processes (%(default)s)")
    add(
        "--headers-only",
        action="store_true",
        help="believe the headers of the wavs: do not read every sample",
    )
    add("--skip-bad", action="store_true", help="leave bad segments out, rather than stop at the first")
    return parser


def prepare(args) -> None:
    """Make the data directory ``args.out``."""
    if not 0 <= args.min_seconds <= args.max_seconds:
        raise ValueError(
            f"--min-seconds {args.min_seconds:g} --max-seconds {args.max_seconds:g}: nothing is left"
        )
    check_vocabulary_options(args)
    audio_root = (args.data_root / f"{args.src_lang}-{args.tgt_lang}" / "data").resolve()
    if not audio_root.is_dir():
        raise FileNotFoundError(f"{audio_root}: no such folder; expected the layout of MuST-C in --data-root")
    present = [split for split in DEFAULT_SPLITS if (audio_root / split).is_dir()]
    splits = args.splits or present
    absent = [split for split in DEFAULT_SPLITS if split not in splits] if args.splits is None else []
    if not splits:
        raise FileNotFoundError(f"{audio_root}: found none of the splits {', '.join(DEFAULT_SPLITS)}")
    if "train" not in splits and args.spm_model is None:
        raise ValueError(
            f"vocabularies are trained on train, found only {', '.join(splits)}; give --spm-model"
        )
    given = load_given(args)
    with complete_folder(args.out, args.overwrite) as folder:
        with worker_processes(args.workers) as pool:
            results = {split: prepare_split(args, audio_root, split, pool) for split in splits}
            kept = results["train"].kept if "train" in results else []
            vocabularies = make_vocabularies(args, given, kept, folder, pool)
        write_outputs(folder, audio_root, results, vocabularies)
    print_report(results, vocabularies, absent)


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
