"""Tables of any corpus, one utterance a row: tab-separated, comma-separated, or a JSON object a line."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Union

from fairseq_prune.text.lines import read_lines, read_text

Row = Union[dict[str, str], ValueError]  # the fields by column, or what is wrong with the row


def read_table(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a table of the kind that its ending names: (where it stands, for errors; its fields).

    A tsv file has no quoting; a csv file has it as RFC 4180 says. Both begin with a line of column names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such table.
    """
    readers = {".tsv": _read_tsv, ".csv": _read_csv, ".jsonl": _read_jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: expected a table that ends in {', '.join(readers)}")
    for number, row in reader(path):
        yield f"{path}, line {number}", row


def _read_tsv(path: Path) -> Iterator[tuple[int, Row]]:
    lines = read_lines(path, "table")
    header = _header(path, lines[0].split("\t") if lines else [])
    for number, line in enumerate(lines[1:], start=2):
        yield number, _row(header, line.split("\t"))


def _read_csv(path: Path) -> Iterator[tuple[int, Row]]:
    rows = csv.reader(io.StringIO(read_text(path, "table"), newline=""), strict=True)
    try:
        header = _header(path, next(rows, []))
        begin = rows.line_num + 1
        for fields in rows:
            if fields:  # an empty line is no row
                yield begin, _row(header, fields)
            begin = rows.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: not a csv table ({error})") from None


def _read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(read_lines(path, "table"), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, ValueError(f"not JSON: {error}")
            continue
        if isinstance(row, dict):
            yield number, {name: _text(value) for name, value in row.items()}
        else:
            yield number, ValueError(f"expected a JSON object, found {line.strip()[:40]!r}")


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _header(path: Path, names: list[str]) -> list[str]:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"{path}, line 1: two columns are named {twice[0]!r}")
    if not any(names):
        raise ValueError(f"{path}, line 1: expected the names of the columns, found nothing")
    return names


def _row(header: list[str], fields: list[str]) -> Row:
    if len(fields) != len(header):
        return ValueError(f"expected {len(header)} fields as in line 1, found {len(fields)}")
    return dict(zip(header, fields))
