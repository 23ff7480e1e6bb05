"""Prepares any corpus that a table describes, for any task.

Reads   tables that end in .tsv, .csv or .jsonl, an utterance a row, with the columns
        audio         the file; a relative path starts at --audio-root, or else at the folder of the table
        text          what is said
        translation   its translation
        parse         its meaning in brackets, [IN:GET_WEATHER [SL:DATE_TIME tomorrow ] ]
        speaker, id   optional; equal ids in a split are an error
        offset, duration   of the utterance in its file, in seconds; optional
        --columns names columns that are called otherwise, --columns audio=path text=sentence
Writes  OUT, which depends on --task:
        speech_translation              manifests, vocabularies and config.yaml          needs audio, translation
        audio_finetuning                SPLIT.tsv, .ltr and .wrd, dict.ltr.txt           needs audio, text
        spoken_language_understanding   manifests; targets are parses (and labels.txt)   needs audio, parse or text
                                        or, where there is no parse, texts
        ssl_distillation                manifests in wav2vec's form                      needs audio

    prep_speech.py --table train.tsv dev.tsv --task speech_translation --out data          a table a split
    prep_speech.py --table train=a.csv valid=b.csv --task audio_finetuning --out data      with names of the splits
    prep_speech.py --table all.jsonl --split-column set --task ssl_distillation --out data

--convert writes each utterance as a file of its own, at 16 kHz; without it, the audio stays where it is. fairseq's task
audio_finetuning and ssl_distillation read whole files, so that segments of files need --convert there.
OUT appears when all of it is complete.
"""

import argparse
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

from fairseq_prune.command_line import PlainParser, finish
from fairseq_prune.data.audio import SAMPLE_RATE
from fairseq_prune.files import complete_folder
from fairseq_prune.preparation.audio_files import END_TOLERANCE, AudioFiles, Skipped
from fairseq_prune.preparation.layouts.tables import read_table
from fairseq_prune.preparation.options import add_audio_reading, add_output
from fairseq_prune.preparation.recognition import add_dictionary_option
from fairseq_prune.preparation.speech_tasks import NEEDED, WRITERS, Segment, Spoken
from fairseq_prune.preparation.vocabularies import add_vocabulary_options, check_vocabulary_options
from fairseq_prune.text.meanings import parse

FIELDS = ("id", "audio", "text", "translation", "speaker", "offset", "duration", "parse")
WHOLE_FILES = ("audio_finetuning", "ssl_distillation")  # tasks whose manifests cannot express segments


class Table(NamedTuple):
    path: Path
    split: Optional[str]  # None: --split-column says it


def find_tables(args: argparse.Namespace) -> list[Table]:
    """The tables of --table, and whose split each is.

    Raises:
        ValueError: two tables would be of one split.
    """
    tables, first = [], {}
    for text in args.table:
        name, _, path = text.rpartition("=")
        table = Table(Path(path), None if args.split_column else name or Path(path).stem)
        if table.split is not None and table.split in first:
            raise ValueError(
                f"--table: {first[table.split]} and {path} are both of the split {table.split}; give NAME=FILE"
            )
        first[table.split] = path
        tables.append(table)
    return tables


def columns_of(args: argparse.Namespace) -> dict[str, str]:
    """The column of each field; raises `ValueError` for a bad --columns."""
    columns = {name: name for name in FIELDS}
    for text in args.columns or []:
        name, _, column = text.partition("=")
        if name not in FIELDS or not column:
            raise ValueError(f"--columns {text}: expected FIELD=COLUMN with a field of {', '.join(FIELDS)}")
        columns[name] = column
    return columns


def read_rows(table: Table, args: argparse.Namespace, skipped: Skipped) -> Iterator[tuple[str, Spoken]]:
    """The utterances of a table with their splits.

    Raises:
        ValueError: names the table, the line and what is wrong with it.
    """
    columns, folder = columns_of(args), args.audio_root or table.path.parent
    for where, fields in read_table(table.path):
        split = table.split
        try:
            if isinstance(fields, ValueError):
                raise fields
            if split is None:
                split = _need(fields, args.split_column)
                if "/" in split or split.startswith("."):
                    raise ValueError(f"split {split!r} cannot be the name of a file")
            for alternatives in NEEDED[args.task]:
                if not any(columns[name] in fields for name in alternatives):
                    wanted = " or ".join(columns[name] for name in alternatives)
                    raise ValueError(f"no column {wanted} (see --columns); found {', '.join(fields)}")
            row = _row(
                where, {name: fields.get(column, "") for name, column in columns.items()}, folder, args
            )
        except ValueError as error:
            skipped.add(split or table.path.stem, f"{where}: {error}")
        else:
            yield split, row


def _row(where: str, fields: dict[str, str], folder: Path, args: argparse.Namespace) -> Spoken:
    audio = os.path.abspath(folder / _need(fields, "audio"))
    offset, duration = (_seconds(fields, name) for name in ("offset", "duration"))
    if duration == 0:
        raise ValueError("duration is 0")
    texts = {name: " ".join(fields[name].split()) for name in ("text", "translation", "parse")}
    for alternatives in NEEDED[args.task]:
        if not any(fields[name].strip() for name in alternatives):
            raise ValueError(f"{' and '.join(alternatives)} empty")
    if args.task == "spoken_language_understanding" and texts["parse"]:
        parse(texts["parse"])
    if args.upper:
        texts["text"] = texts["text"].upper()
    name = fields["id"].strip() or _name(audio, folder, offset)
    if args.convert and ("/" in name or name in (".", "..")):
        raise ValueError(f"--convert: id {name!r} cannot be the name of a file")
    return Spoken(
        where=where,
        id=name,
        audio=audio,
        offset=round((offset or 0) * SAMPLE_RATE),
        n_samples=-1 if duration is None else max(1, round(duration * SAMPLE_RATE)),
        speaker=fields["speaker"].strip(),
        **texts,
    )


def _need(fields: dict[str, str], name: str) -> str:
    if not fields.get(name, "").strip():
        raise ValueError(
            f"{name} is empty" if name in fields else f"no column {name}; found {', '.join(fields)}"
        )
    return fields[name].strip()


def _seconds(fields: dict[str, str], name: str) -> Optional[float]:
    if not fields[name].strip():
        return None
    try:
        value = float(fields[name])
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of seconds, found {fields[name]!r}")
    return value


def _name(audio: str, folder: Path, offset: Optional[float]) -> str:
    """An id of what is known of an utterance: its file, and where it begins."""
    path = Path(os.path.relpath(audio, folder)).with_suffix("")
    name = "-".join(part for part in path.parts if part not in ("..", "/"))
    return name if offset is None else f"{name}-{round(offset * 1000):08d}"


def find_segments(audio: AudioFiles, split: str, root: Path, rows: list[Spoken], task: str) -> list[Segment]:
    """Where each utterance lies, its audio checked; with --convert each is written to a file of its own."""
    if audio.copies is not None:
        jobs = [(os.path.relpath(row.audio, root), row.id, row.offset, row.n_samples) for row in rows]
        files = audio.cut(split, root, jobs, [row.where for row in rows])
        return [Segment(row, file.path, 0, file.samples) for row, file in zip(rows, files) if file]
    first = {row.audio: row.where for row in reversed(rows)}
    paths = [os.path.relpath(name, root) for name in first]
    measured = audio.measure(split, root, paths, task == "audio_finetuning", list(first.values()))
    files = dict(zip(first, measured))
    segments = []
    for row in rows:
        file = files[row.audio]
        if file is None:
            continue
        end = file.samples if row.n_samples < 0 else row.offset + row.n_samples
        if abs(end - file.samples) <= END_TOLERANCE:
            end = file.samples
        if not row.offset < end <= file.samples:
            audio.skipped.add(
                split,
                f"{row.where}: the utterance lies from {row.offset / SAMPLE_RATE:g} to {end / SAMPLE_RATE:g} s, "
                f"{row.audio} ends at {file.samples / SAMPLE_RATE:g} s",
            )
        elif task in WHOLE_FILES and (row.offset, end) != (0, file.samples):
            audio.skipped.add(split, f"{row.where}: a part of {row.audio}; the task {task} needs --convert")
        else:
            segments.append(Segment(row, file.path, row.offset, end - row.offset))
    return segments


def read_splits(args: argparse.Namespace, skipped: Skipped) -> dict[str, list[Spoken]]:
    """The utterances of each split, with different ids.

    Raises:
        ValueError: names the table, the line and what is wrong with it.
    """
    splits: dict[str, list[Spoken]] = {}
    first: dict[tuple[str, str], str] = {}
    for table in find_tables(args):
        for split, row in read_rows(table, args, skipped):
            other = first.setdefault((split, row.id), row.where)
            if other != row.where:
                skipped.add(split, f"{row.where}: the id {row.id} stands in {other} already")
            else:
                splits.setdefault(split, []).append(row)
    if not splits:
        raise ValueError(f"--table {' '.join(args.table)}: no utterance")
    return splits


def prepare(args: argparse.Namespace) -> None:
    """Make the data folder ``args.out``."""
    check_vocabulary_options(args)
    skipped = Skipped(args.skip_bad)
    splits = read_splits(args, skipped)
    root = Path(os.path.commonpath([Path(row.audio).parent for rows in splits.values() for row in rows]))
    with complete_folder(args.out, args.overwrite) as folder:
        audio = AudioFiles(args, folder, skipped)
        segments = {
            split: find_segments(audio, split, root, rows, args.task) for split, rows in splits.items()
        }
        roots = {split: audio.root(split, root) for split in splits}
        WRITERS[args.task](args, folder, roots, segments)
        skipped.write(folder)


def make_parser() -> PlainParser:
    parser = PlainParser(__doc__)
    add = parser.add_argument
    add(
        "--table",
        nargs="+",
        required=True,
        metavar="[SPLIT=]FILE",
        help="the tables; a split is named as its file",
    )
    add("--split-column", metavar="COLUMN", help="the column that names the split of a row")
    add("--columns", nargs="+", metavar="FIELD=COLUMN", help=f"columns by field, of {', '.join(FIELDS)}")
    add("--audio-root", type=Path, metavar="DIR", help="where relative paths start (the folder of the table)")
    add("--task", required=True, choices=sorted(WRITERS), help="the task of fairseq that will read OUT")
    add_output(parser)
    add_audio_reading(parser)
    add("--upper", action="store_true", help="write texts in capitals, as LibriSpeech has them")
    recognition = parser.add_argument_group("audio_finetuning")
    add_dictionary_option(recognition)
    add_vocabulary_options(parser.add_argument_group("speech_translation"), "--vocab-dict")
    return parser


def main(argv=None) -> int:
    return finish(prepare, make_parser().parse_args(argv))
