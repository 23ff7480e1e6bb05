"""Files of results to which runs add lines."""

import json

from hypothesis import given
from hypothesis import strategies as st

from fairseq_prune.files import results_of

ROWS = [
    {"way": "dense", "errors": [1, 2]},
    {"way": "thé\u2028", "errors": []},
    {"way": "last", "errors": [3]},
]
CONTENT = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)


@given(st.integers(0, len(CONTENT)))
def test_what_a_killed_run_left_of_a_line_is_cut_off_and_nothing_else(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("results") / "results.jsonl"
    path.write_bytes(CONTENT[:written])
    whole = CONTENT[:written].count(b"\n")
    assert results_of(path) == ROWS[:whole]
    assert path.read_bytes() == CONTENT[: CONTENT[:written].rfind(b"\n") + 1]


def test_whole_lines_are_not_written_again(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(CONTENT)
    before = path.stat()
    assert results_of(path) == ROWS
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_no_file_has_no_results(tmp_path):
    assert results_of(tmp_path / "results.jsonl") == []
    assert not list(tmp_path.iterdir())
