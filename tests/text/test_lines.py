"""One reader and one writer of lines for all formats."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fairseq_prune.text.lines import read_lines, read_text, require_line, write_lines

IN_SENTENCES = "\u2028 \u2029 \x85 \x0b \x0c \x1c \x1d \x1e"  # where str.splitlines would end a line

lines_that_can_be_written = st.lists(
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"])).filter(
        lambda line: not line.startswith("\ufeff")
    )
)


@settings(max_examples=200)
@given(lines_that_can_be_written)
@example([IN_SENTENCES, ""])
@example([""])
@example([])
def test_what_is_written_is_read_back(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines") / "text"
    write_lines(path, lines)
    assert read_lines(path) == lines


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_end_with_lf_or_crlf_and_a_byte_order_mark_is_left_out(tmp_path, end):
    path = tmp_path / "text"
    path.write_bytes(f"\ufeffone{end}t\rwo {IN_SENTENCES}{end}{end}three".encode())
    assert read_lines(path) == ["one", f"t\rwo {IN_SENTENCES}", "", "three"]


def test_text_keeps_its_line_ends(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffa: 1\r\nb: 2\n".encode())
    assert read_text(path) == "a: 1\r\nb: 2\n"


def test_bytes_that_are_no_utf_8_are_named_with_their_line(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("gut\nsch\u00f6n\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"text, line 2: expected UTF-8 text, found the byte 0xF6$"):
        read_lines(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        read_lines(tmp_path / "absent", "manifest")
    with pytest.raises(ValueError, match="found a folder, expected a manifest"):
        read_lines(tmp_path, "manifest")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\nb", "a line break"),
        ("a\rb", "a line break"),
        ("\ufeffa", "a byte order mark"),
        ("\ud800", "half a character"),
    ],
)
def test_a_line_that_would_not_be_read_back_is_refused_before_anything_is_written(tmp_path, text, found):
    path = tmp_path / "text"
    with pytest.raises(ValueError, match=f"text, line 2 holds {found}"):
        write_lines(path, ["good", text])
    assert not path.exists()


def test_a_tab_is_refused_in_a_field_of_a_table_alone():
    assert require_line("a\tb", "row 1") == "a\tb"
    with pytest.raises(ValueError, match="row 1 holds a tab"):
        require_line("a\tb", "row 1", tabs=False)
