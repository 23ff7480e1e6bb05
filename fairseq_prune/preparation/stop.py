"""STOP (Tomasello et al. 2022, arXiv 2207.10643) as manifests for the task spoken_language_understanding.

Reads the release (dl.fbaipublicfiles.com/stop/stop.tar.gz): manifests/{train,eval,test}.tsv, and the audio that their
column file_id names. Targets are parses such as `[IN:GET_WEATHER [SL:DATE_TIME tomorrow ] ]`.

    prep_stop.py --stop-root stop --out data
    prep_stop.py --stop-root stop --text-only --out texts       # the manifests alone, then make_speech.py texts
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.preparation.audio_files import Skipped
from fairseq_prune.preparation.spoken_language import Spoken, add_writing, write_corpus
from fairseq_prune.text.lines import read_lines
from fairseq_prune.text.meanings import parse

SPLITS = {"train": "train", "dev": "eval", "test": "test"}  # ours: STOP's
PARSES = {  # what to predict: column
    "decoupled": "decoupled_normalized_seqlogical",  # words in slots alone, as the published scores have it
    "full": "normalized_seqlogical",
}


def read_rows(
    root: Path, split: str, column: str, domains: Optional[list[str]], skipped: Skipped
) -> Iterator[Spoken]:
    """The utterances of a split of STOP, of some domains or of all; their speakers are the domains.

    Raises:
        FileNotFoundError: there is no such manifest.
        ValueError: names the file, the line and what is wrong with it.
    """
    path = root / "manifests" / f"{SPLITS[split]}.tsv"
    first, *lines = read_lines(path, "manifest of STOP") or [""]
    header = first.split("\t")
    needed = ("file_id", "domain", "normalized_utterance", column)
    missing = [name for name in needed if name not in header]
    if missing:
        raise ValueError(f"{path}, line 1: no column {missing[0]}; found {', '.join(header) or 'nothing'}")
    lines_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=2):
        row = dict(zip(header, line.split("\t")))
        try:
            if any(not row.get(name, "").strip() for name in needed):
                raise ValueError(f"expected {len(header)} texts with tabs between, found less")
            name = row["file_id"]
            if name in lines_of:
                raise ValueError(f"file_id {name} stands in line {lines_of[name]} already")
            tree = parse(row[column])
        except ValueError as error:
            skipped.add(split, f"{path}, line {number}: {error}")
            continue
        lines_of[name] = number
        if not domains or row["domain"] in domains:
            text = " ".join(row["normalized_utterance"].split())
            yield Spoken(name, str((root / name).resolve()), text, tree, row["domain"])


def prepare(args) -> None:
    """Check the release, then write the folder ``args.out``."""
    skipped = Skipped(args.skip_bad)
    splits = {
        split: list(read_rows(args.stop_root, split, PARSES[args.parse], args.domains, skipped))
        for split in SPLITS
    }
    empty = [split for split, rows in splits.items() if not rows]
    if empty:
        path = args.stop_root / "manifests" / f"{SPLITS[empty[0]]}.tsv"
        raise ValueError(
            f"{path}: no utterance" + (f" of the domains {args.domains}" if args.domains else "")
        )
    domains = {split: f"{len({row.speaker for row in rows})} domains" for split, rows in splits.items()}
    if args.text_only:  # file ids are paths, which no file can be named by
        splits = {
            split: [row._replace(id=f"{number:06d}") for number, row in enumerate(rows)]
            for split, rows in splits.items()
        }
    write_corpus(args, splits, skipped, domains)


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
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
    add_writing(parser)
    return parser


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
