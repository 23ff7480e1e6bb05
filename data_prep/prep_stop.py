#!/usr/bin/env python3
"""STOP (Tomasello et al. 2022, arXiv 2207.10643) as manifests for the task spoken_language_understanding.

Reads the release (dl.fbaipublicfiles.com/stop/stop.tar.gz): manifests/{train,eval,test}.tsv, and the audio that their
column file_id names. Targets are parses such as `[IN:GET_WEATHER [SL:DATE_TIME tomorrow ] ]`.

    prep_stop.py --stop-root stop --out data
    prep_stop.py --stop-root stop --text-only --out texts       # the manifests alone, then make_speech.py texts
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Optional

from output_folder import complete_folder
from slu_texts import Text, write_labels, write_texts
from tqdm import tqdm

from fairseq_prune.data.audio import audio_info
from fairseq_prune.data.manifest import Utterance, write_manifest
from fairseq_prune.text.lines import read_lines
from fairseq_prune.text.meanings import Node, parse

SPLITS = {"train": "train", "dev": "eval", "test": "test"}  # ours: STOP's
PARSES = {  # what to predict: column
    "decoupled": "decoupled_normalized_seqlogical",  # words in slots alone, as the published scores have it
    "full": "normalized_seqlogical",
}


class Row(NamedTuple):
    """An utterance of STOP; ``file_id`` is its audio below the root of the release."""

    file_id: str
    domain: str
    utterance: str
    tree: Node


def read_rows(path: Path, column: str, domains: Optional[list[str]]) -> Iterator[Row]:
    """The utterances of a manifest of STOP, of some domains or of all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file, the line and what is wrong with it.
    """
    first, *lines = read_lines(path, "manifest of STOP") or [""]
    header = first.split("\t")
    needed = ("file_id", "domain", "normalized_utterance", column)
    missing = [name for name in needed if name not in header]
    if missing:
        raise ValueError(f"{path}, line 1: no column {missing[0]}; found {', '.join(header) or 'nothing'}")
    for number, line in enumerate(lines, start=2):
        where, row = f"{path}, line {number}", dict(zip(header, line.split("\t")))
        if any(not row.get(name, "").strip() for name in needed):
            raise ValueError(f"{where}: expected {len(header)} texts with tabs between, found less")
        try:
            tree = parse(row[column])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if not domains or row["domain"] in domains:
            yield Row(row["file_id"], row["domain"], " ".join(row["normalized_utterance"].split()), tree)


def utterances(rows: Iterable[Row], root: Path) -> Iterator[Utterance]:
    """A manifest row for each; raises as `audio_info` for audio that is missing or broken."""
    for row in rows:
        path = (root / row.file_id).resolve()
        yield Utterance(
            row.file_id, str(path), 0, audio_info(path).n_samples, row.utterance, str(row.tree), row.domain
        )


def build(args: argparse.Namespace) -> None:
    """Check the release, then write the folder args.out."""
    manifests = args.stop_root / "manifests"
    splits = {
        split: list(read_rows(manifests / f"{theirs}.tsv", PARSES[args.parse], args.domains))
        for split, theirs in SPLITS.items()
    }
    empty = [split for split, rows in splits.items() if not rows]
    if empty:
        raise ValueError(f"{manifests / SPLITS[empty[0]]}.tsv: no utterance of the domains {args.domains}")
    with complete_folder(args.out, args.overwrite) as folder:
        for split, rows in splits.items():
            progress = tqdm(rows, desc=split, unit="utterance")
            if args.text_only:
                texts = (Text(f"{i:06d}", row.utterance, str(row.tree)) for i, row in enumerate(progress))
                write_texts(folder, split, texts)
            else:
                write_manifest(folder / f"{split}.tsv", utterances(progress, args.stop_root))
            print(f"{split}: {len(rows):,} utterances, {len({row.domain for row in rows})} domains")
        number = write_labels(folder, (row.tree for row in splits["train"]))
    print(f"{args.out}: {number} labels in training")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--stop-root", type=Path, required=True, metavar="DIR", help="the unpacked release")
    add("--text-only", action="store_true", help="write texts, for make_speech.py to read aloud")
    add(
        "--parse",
        choices=sorted(PARSES),
        default="decoupled",
        help="with words in slots alone, or all (%(default)s)",
    )
    add("--domains", nargs="+", help="take utterances of these domains only (all)")
    add("--out", type=Path, required=True, help="folder to write")
    add("--overwrite", action="store_true", help="replace --out if it is there")
    return parser


def main(argv: Optional[list[str]] = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        build(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
