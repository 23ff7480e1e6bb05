"""What the corpora of spoken language understanding share: texts with their parses, before there is audio.

A folder of texts has `{split}.texts.tsv` (id, src_text, tgt_text), which make_speech.py reads aloud. A data folder,
with audio, has `{split}.tsv` (`fairseq_prune.data.manifest`). Both have `labels.txt`: one new token a line, for
`scripts/prune_vocab.py --labels`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fairseq_prune.text.lines import read_lines, require_line, write_lines
from fairseq_prune.text.meanings import Node, labels

SPLITS = ("train", "dev", "test")
LABELS = "labels.txt"
SUFFIX = ".texts.tsv"


class Text(NamedTuple):
    """An utterance: what is said, and what it means as a bracketed parse."""

    id: str
    src_text: str
    tgt_text: str


def write_texts(folder: Path, split: str, texts: Iterable[Text]) -> None:
    """Write ``{split}.texts.tsv``.

    Raises:
        ValueError: a field holds a tab or a line break, which the format cannot express.
    """
    rows = [Text._fields, *texts]
    for row in rows:
        for field in row:
            require_line(field, f"{split}: utterance {row[0]!r}", tabs=False)
    write_lines(folder / f"{split}{SUFFIX}", ("\t".join(row) for row in rows))


def read_texts(path: Path) -> list[Text]:
    """Read what `write_texts` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file, the line and what is wrong with it.
    """
    header, *lines = read_lines(path, "file (prep_slurp.py --text-only makes one)") or [""]
    if tuple(header.split("\t")) != Text._fields:
        raise ValueError(f"{path}, line 1: expected the columns {', '.join(Text._fields)}, found {header!r}")
    texts, first = [], {}
    for number, line in enumerate(lines, start=2):
        where, fields = f"{path}, line {number}", line.split("\t")
        if len(fields) != len(Text._fields) or not all(field.strip() for field in fields):
            raise ValueError(f"{where}: expected 3 texts with tabs between, found {line!r}")
        text = Text(*fields)
        if "/" in text.id:
            raise ValueError(f"{where}: id {text.id!r} cannot be the name of a file")
        if text.id in first:
            raise ValueError(f"{where}: the id {text.id} stands in line {first[text.id]} already")
        first[text.id] = number
        texts.append(text)
    if not texts:
        raise ValueError(f"{path}: expected a row an utterance, found no text")
    return texts


def write_labels(folder: Path, parses: Iterable[Node]) -> int:
    """Write ``labels.txt``; returns the number of labels."""
    found = labels(parses)
    # a slot is one token with the space before it, as " word" and " ]" are; an intent begins the text
    write_lines(folder / LABELS, (f" {label}" if label.startswith("[SL:") else label for label in found))
    return len(found)
