"""The manifest of a split: a tab-separated file with a row an utterance."""

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from fairseq_prune.data.audio import audio_info
from fairseq_prune.text.lines import read_lines, require_line, write_lines


class Utterance(NamedTuple):
    """A segment of an audio file with its texts; ``offset`` and ``n_frames`` are samples at 16 kHz."""

    id: str
    audio: str
    offset: int
    n_frames: int
    src_text: str
    tgt_text: str
    speaker: str


COLUMNS = Utterance._fields


def write_manifest(path, utterances: Iterable[Utterance]) -> None:
    """Write utterances as a TSV without quoting.

    Raises:
        ValueError: a text holds a tab or a line break, which the format cannot express.
    """
    rows = [
        "\t".join(
            require_line(str(field), f"{path}: utterance {utterance.id!r}: {column}", tabs=False)
            for column, field in zip(COLUMNS, utterance)
        )
        for utterance in utterances
    ]
    write_lines(path, ["\t".join(COLUMNS), *rows])


def read_manifest(path) -> list[Utterance]:
    """Read and check a manifest; columns may stand in any order, further ones are ignored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: names the file, the line (the header is line 1) and what is wrong with it.
    """
    lines = read_lines(path, "manifest")
    if not lines:
        raise ValueError(f"{path}: expected a header and a row an utterance, found an empty file")
    header = lines[0].split("\t")
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise ValueError(f"{path}, line 1: no column {', '.join(missing)}; found {', '.join(header)}")
    if len(lines) == 1:
        raise ValueError(f"{path}: expected a row an utterance, found only the header")
    places = [header.index(column) for column in COLUMNS]
    return [
        _parse_row(f"{path}, line {number}", line.split("\t"), places, len(header))
        for number, line in enumerate(lines[1:], start=2)
    ]


def _parse_row(where: str, fields: list[str], places: list[int], n_columns: int) -> Utterance:
    if len(fields) != n_columns:
        raise ValueError(f"{where}: expected {n_columns} tab-separated fields, found {len(fields)}")
    utterance = Utterance(*(fields[place] for place in places))
    return utterance._replace(
        offset=_whole_number(where, "offset", utterance.offset, at_least=0),
        n_frames=_whole_number(where, "n_frames", utterance.n_frames, at_least=1),
        audio=_not_empty(where, "audio", utterance.audio),
        tgt_text=_not_empty(where, "tgt_text", utterance.tgt_text),
    )


def _whole_number(where: str, column: str, field: str, at_least: int) -> int:
    # isascii: isdigit alone takes superscripts, which int() does not
    if not (field.isascii() and field.isdigit()) or int(field) < at_least:
        raise ValueError(f"{where}: {column} must be a whole number of at least {at_least}, found {field!r}")
    return int(field)


def _not_empty(where: str, column: str, field: str) -> str:
    if not field.strip():
        raise ValueError(f"{where}: {column} is empty")
    return field


def check_audio(utterances: Iterable[Utterance], audio_root, threads: int = 16) -> None:
    """Check once for each distinct file that it exists and reaches the end of its last segment.

    Raises:
        FileNotFoundError, ValueError: names the first bad file in manifest order, and how many are bad.
    """
    last = defaultdict(lambda: (0, ""))  # audio -> (end in samples, id) of the segment that ends last
    for utterance in utterances:
        end = utterance.offset + utterance.n_frames
        last[utterance.audio] = max(last[utterance.audio], (end, utterance.id))

    def problem(audio):
        path = Path(audio_root) / audio
        end, utterance_id = last[audio]
        try:
            found = audio_info(path).n_samples
        except (FileNotFoundError, ValueError) as error:
            return error
        if found < end:
            return ValueError(
                f"{path}: utterance {utterance_id!r} ends at sample {end} (at 16 kHz), "
                f"the file holds {found} samples"
            )
        return None

    with ThreadPoolExecutor(threads) as pool:
        problems = [error for error in pool.map(problem, last) if error is not None]
    if problems:
        others = f" (and {len(problems) - 1} more bad files)" if len(problems) > 1 else ""
        raise type(problems[0])(f"{problems[0]}{others}")
