"""Reads the segments of a split in the layout of MuST-C (Di Gangi et al. 2019, N19-1202)."""

import re
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import NamedTuple

import yaml

from fairseq_prune.text.lines import read_lines, read_text

YAML_CHUNK = 500  # segments; yaml is slow, so chunks of a file are parsed in several processes


class Segment(NamedTuple):
    """One segment of a talk; ``number`` counts from 1 in the yaml file and in both text files."""

    number: int
    wav: str
    offset: float  # seconds
    duration: float  # seconds
    speaker: str
    src_text: str
    tgt_text: str
    problem: str = ""  # what is wrong with its times, which then are 0


def read_split(folder: Path, split: str, src_lang: str, tgt_lang: str, pool: Executor) -> Iterator[Segment]:
    """Segments of ``folder/txt/split.{yaml,src_lang,tgt_lang}``, in order.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: names the file and segment, what was found and what was expected.
    """
    yaml_path, src_path, tgt_path = (
        folder / "txt" / f"{split}.{end}" for end in ("yaml", src_lang, tgt_lang)
    )
    sources, targets = _read_lines(src_path), _read_lines(tgt_path)
    if len(sources) != len(targets):
        raise ValueError(
            f"{tgt_path}: expected {len(sources)} lines as in {src_path.name}, found {len(targets)}"
        )
    number = 0
    for items in pool.map(_parse_yaml, _chunks(yaml_path)):
        if isinstance(items, str):
            raise ValueError(f"{yaml_path}: {items}")
        for item in items:
            number += 1
            where = f"{yaml_path}, segment {number}"
            if number > len(sources):
                raise ValueError(f"{where}: expected {len(sources)} segments, a line of {src_path.name} each")
            yield _parse_segment(where, number, item, sources[number - 1], targets[number - 1])
    if number != len(sources):
        raise ValueError(
            f"{yaml_path}: expected {len(sources)} segments, a line of {src_path.name} each, found {number}"
        )


def _read_lines(path: Path) -> list[str]:
    return [" ".join(line.split()) for line in read_lines(path)]


def _chunks(path: Path) -> list[str]:
    """The text of a yaml list in pieces that are lists of their own."""
    text = read_text(path)
    starts = [match.start() for match in re.finditer(r"^- ", text, re.MULTILINE)]
    cuts = [0, *starts[YAML_CHUNK::YAML_CHUNK], len(text)]
    return [text[start:end] for start, end in zip(cuts, cuts[1:])]


def _parse_yaml(text: str):
    """The list in a piece of yaml, or a message of one line."""
    try:
        items = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        return f"not valid yaml: {' '.join(str(error).split())}"
    if items is not None and not isinstance(items, list):
        return f"expected a list of segments, found {type(items).__name__}"
    return items or []


def _parse_segment(where: str, number: int, item, src_text: str, tgt_text: str) -> Segment:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: expected a mapping, found {item!r}")
    for key in ("wav", "offset", "duration"):
        if key not in item:
            raise ValueError(f"{where}: no {key}; found {', '.join(map(str, item))}")
    speaker = str(item.get("speaker_id", item["wav"]))
    segment = Segment(number, str(item["wav"]), item["offset"], item["duration"], speaker, src_text, tgt_text)
    for key in ("offset", "duration"):
        # not bool, which is an int; not nan, which compares as false
        if type(item[key]) not in (int, float) or not 0 <= item[key] < float("inf"):
            problem = f"{key} must be a number of seconds, found {item[key]!r}"
            return segment._replace(offset=0.0, duration=0.0, problem=" ".join(problem.split()))
    return segment
