"""Files of lines, read and written in one way: UTF-8, where a line ends with LF or CRLF and with nothing else.

Python's `str.splitlines` and text mode also end lines at a lone CR and at rarer marks (U+2028, NEL, VT, FS), which
occur within sentences. A byte order mark at the beginning of a file is no part of its text.
"""

import re
from collections.abc import Iterable
from pathlib import Path

BYTE_ORDER_MARK = "\ufeff"


def read_text(path, what: str = "file") -> str:
    """The text of a file, without byte order mark; its line ends stay as they are.

    Args:
        what: such as "manifest", for the errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no regular file, or not UTF-8 (names the line).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such {what}")
    if not path.is_file():
        raise ValueError(f"{path}: found a {'folder' if path.is_dir() else 'device'}, expected a {what}")
    content = path.read_bytes()
    try:
        return content.decode("utf-8").removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {number}: expected UTF-8 text, found the byte 0x{content[error.start]:02X}"
        ) from None


def read_lines(path, what: str = "file") -> list[str]:
    """The lines of a file, without their ends; none for an empty file.

    Raises:
        FileNotFoundError, ValueError: as `read_text`.
    """
    lines = re.split("\r?\n", read_text(path, what))
    if lines[-1] == "":
        lines.pop()
    return lines


def require_line(text: str, where: str, tabs: bool = True) -> str:
    """``text``, which `read_lines` and other programs read back as one line.

    Args:
        where: what the error begins with.
        tabs: whether it may hold tabs; not if it becomes a field of a table.

    Raises:
        ValueError: it holds what ends a line (or a field), or what UTF-8 cannot express.
    """
    bad = re.search("[\n\r\ud800-\udfff]" if tabs else "[\n\r\t\ud800-\udfff]", text)
    if bad or text.startswith(BYTE_ORDER_MARK):
        found = bad.group() if bad else BYTE_ORDER_MARK
        kind = {
            "\n": "a line break",
            "\r": "a line break",
            "\t": "a tab",
            BYTE_ORDER_MARK: "a byte order mark",
        }
        raise ValueError(f"{where} holds {kind.get(found, 'half a character')}: {text!r}")
    return text


def write_lines(path, lines: Iterable[str]) -> None:
    """Write a file that `read_lines` reads back; nothing is written if a line is refused.

    Raises:
        ValueError: names the line that the format cannot express.
    """
    lines = [require_line(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    Path(path).write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
