"""Each format of lines takes what can stand within a sentence, and leaves a byte order mark out."""

import numpy as np
import pytest
import soundfile

from fairseq_prune.data.labelled_audio import Labelled, read_split, write_split
from fairseq_prune.data.manifest import Utterance, read_manifest, write_manifest
from fairseq_prune.inference.ctc_decoding import _read_lexicon
from fairseq_prune.text.dictionaries import read_dictionary, write_dictionary
from fairseq_prune.text.meanings import read_slurp

RARE = "a\u2028b\x85c\x0bd\x1ce"  # where str.splitlines ends a line


def manifest(folder, text):
    path = folder / "train.tsv"
    write_manifest(path, [Utterance("a", "a.wav", 0, 1, text, text, "s")] * 2)
    return path, lambda: [row.tgt_text for row in read_manifest(path)]


def labels(folder, text):
    soundfile.write(folder / "a.wav", np.zeros(8), 16000)
    write_split(folder, "train", folder, [Labelled("a.wav", 8, text, text)] * 2)
    return folder / "train.ltr", lambda: read_split(folder, "train").labels


def dictionary(folder, text):
    path = folder / "dict.txt"
    write_dictionary(path, [text, text + "2"], {text: 3, text + "2": 2})
    return path, lambda: [symbol.removesuffix("2") for symbol in read_dictionary(path).symbols[4:]]


FORMATS = [manifest, labels, dictionary]


@pytest.mark.parametrize("form", FORMATS)
def test_rare_marks_within_a_text_are_written_and_read_back(form, tmp_path):
    _, read = form(tmp_path, RARE)
    assert read() == [RARE, RARE]


@pytest.mark.parametrize("form", FORMATS)
def test_a_byte_order_mark_and_dos_line_ends_are_left_out(form, tmp_path):
    path, read = form(tmp_path, "text")
    path.write_bytes("\ufeff".encode() + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read() == ["text", "text"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("text", ["a\rb", "a\nb"])
def test_what_would_end_a_line_is_refused_by_the_writer(form, text, tmp_path):
    with pytest.raises(ValueError, match="holds a line break"):
        form(tmp_path, text)


def test_a_lexicon_begins_after_its_byte_order_mark(tmp_path):
    (tmp_path / "lexicon").write_bytes("\ufeffan A N |\r\noak O A K |\r\n".encode())
    assert _read_lexicon(tmp_path / "lexicon") == {"an": "A N |", "oak": "O A K |"}


def test_predictions_of_slurp_begin_after_their_byte_order_mark(tmp_path):
    row = '{"scenario": "a", "action": "b", "entities": []}'
    (tmp_path / "rows.jsonl").write_bytes(f"\ufeff{row}\r\n".encode())
    [(where, _, meaning)] = read_slurp(tmp_path / "rows.jsonl")
    assert meaning.intent == "a_b" and where.endswith("rows.jsonl, line 1")


@pytest.mark.parametrize("lines", ["a 1\nb 1\na 1\n", "a 1\nb 1\n<s> 1\n", "a 1\nb 1\nc x\n"])
def test_a_bad_line_of_a_dictionary_is_named(lines, tmp_path):
    (tmp_path / "dict.txt").write_text(lines)
    with pytest.raises(ValueError, match=r"dict.txt, line 3: expected a symbol that is new and its count"):
        read_dictionary(tmp_path / "dict.txt")
