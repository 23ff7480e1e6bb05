"""Manifests: a round trip for all texts, and one clear line for each kind of bad row."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_prune.data.manifest import Utterance, check_audio, read_manifest, write_manifest

text = st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]))
filled = text.filter(str.strip)
utterances = st.builds(
    Utterance,
    id=text,
    audio=filled,
    offset=st.integers(0, 10**12),
    n_frames=st.integers(1, 10**12),
    src_text=text,
    tgt_text=filled,
    speaker=text,
)


@given(rows=st.lists(utterances, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("manifest") / "train.tsv"
    write_manifest(path, rows)
    assert read_manifest(path) == rows


ROW = Utterance("a_0", "a.wav", 0, 1000, "one", "eins", "spk")


HEADER = "\t".join(Utterance._fields)


def manifest_of(tmp_path, *rows, header=HEADER):
    path = tmp_path / "train.tsv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def row(**changes):
    return "\t".join(str(value) for value in {**ROW._asdict(), **changes}.values())


@pytest.mark.parametrize("field", ["a\tb", "a\nb", "a\rb"])
def test_text_that_the_format_cannot_hold_is_refused_by_the_writer(tmp_path, field):
    with pytest.raises(ValueError, match=r"'a_0': tgt_text holds a (tab|line break)"):
        write_manifest(tmp_path / "a.tsv", [ROW._replace(tgt_text=field)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_frames": "abc"}, "n_frames must be a whole number of at least 1, found 'abc'"),
        ({"n_frames": "1.5"}, "n_frames must be a whole number of at least 1, found '1.5'"),
        ({"n_frames": "0"}, "n_frames must be a whole number of at least 1, found '0'"),
        ({"n_frames": "²"}, "n_frames must be a whole number of at least 1, found '²'"),
        ({"offset": "-3"}, "offset must be a whole number of at least 0, found '-3'"),
        ({"offset": ""}, "offset must be a whole number of at least 0, found ''"),
        ({"tgt_text": " "}, "tgt_text is empty"),
        ({"audio": ""}, "audio is empty"),
        ({"tgt_text": "a\tb"}, "expected 7 tab-separated fields, found 8"),
    ],
)
def test_bad_row_is_named_by_file_and_line(tmp_path, changes, message):
    path = manifest_of(tmp_path, row(), row(**changes))
    with pytest.raises(ValueError) as error:
        read_manifest(path)
    assert str(error.value) == f"{path}, line 3: {message}"


def test_missing_column_is_named(tmp_path):
    path = manifest_of(tmp_path, "x", header="id\taudio\toffset\tn_frames\tsrc_text\tspeaker")
    with pytest.raises(ValueError, match=r"train\.tsv, line 1: no column tgt_text; found id, audio"):
        read_manifest(path)


def test_empty_file_and_file_without_rows_are_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("")
    with pytest.raises(ValueError, match=r"a\.tsv: .* found an empty file"):
        read_manifest(tmp_path / "a.tsv")
    with pytest.raises(ValueError, match="found only the header"):
        read_manifest(manifest_of(tmp_path))


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"b\.tsv: no such manifest"):
        read_manifest(tmp_path / "b.tsv")
    (tmp_path / "b.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"b\.tsv, line 1: expected UTF-8 text"):
        read_manifest(tmp_path / "b.tsv")


def test_further_columns_other_order_and_dos_line_ends_are_read(tmp_path):
    header = "tgt_text\tmood\t" + "\t".join(name for name in Utterance._fields if name != "tgt_text")
    cells = [str(value) for name, value in ROW._asdict().items() if name != "tgt_text"]
    path = tmp_path / "a.tsv"
    path.write_bytes(("\ufeff" + header + "\r\n" + "\t".join(["eins", "glad", *cells]) + "\r\n").encode())
    assert read_manifest(path) == [ROW]


@pytest.fixture()
def one_second(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    return tmp_path


def test_check_audio_accepts_segments_up_to_the_end(one_second):
    rows = [ROW, ROW._replace(offset=15000), ROW._replace(audio=str(one_second / "a.wav"))]
    assert check_audio(rows, one_second) is None
    with pytest.raises(ValueError):
        check_audio([*rows, ROW._replace(offset=15001)], one_second)


def test_check_audio_names_the_utterance_past_the_end(one_second):
    rows = [ROW, ROW._replace(id="late", offset=15500), ROW]
    with pytest.raises(ValueError, match=r"a\.wav: utterance 'late' ends at sample 16500 .* holds 16000"):
        check_audio(rows, one_second)


def test_check_audio_counts_the_bad_files(one_second):
    rows = [ROW, ROW._replace(audio="b.wav"), ROW._replace(audio="c.wav"), ROW._replace(audio="b.wav")]
    with pytest.raises(FileNotFoundError, match=r"b\.wav: no such audio file \(and 1 more bad files\)"):
        check_audio(rows, one_second)
