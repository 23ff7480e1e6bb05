"""Any corpus from a table, for each task."""

import csv
import json

import numpy as np
import pytest
import soundfile

from fairseq_prune.data.config import DataConfig
from fairseq_prune.data.labelled_audio import read_split
from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.data.waveform_manifest import read_waveform_manifest
from fairseq_prune.preparation.layouts.tables import read_table
from fairseq_prune.preparation.speech import main

ROWS = [
    {"path": "a.wav", "text": "AN OAK", "translation": "eine Eiche", "speaker": "ann", "set": "train"},
    {"path": "b.wav", "text": "A LAKE", "translation": "ein See", "speaker": "bob", "set": "train"},
    {"path": "c.wav", "text": "THE, SEA", "translation": 'das "Meer"', "speaker": "ann", "set": "dev"},
]
PARSES = ["[IN:SEE [SL:TREE an oak ] ]", "[IN:SEE [SL:WATER a lake ] ]", "[IN:SEE [SL:WATER the sea ] ]"]
SAMPLES = {"a.wav": 8000, "b.wav": 9600, "c.wav": 16000}


@pytest.fixture
def corpus(tmp_path):
    """A folder with three files of audio."""
    random = np.random.default_rng(0)
    for name, samples in SAMPLES.items():
        soundfile.write(tmp_path / name, random.uniform(-0.1, 0.1, samples), 16000)
    return tmp_path


@pytest.fixture
def run(tmp_path, capsys):
    """Prepare tmp_path/out; the exit status, and what is printed on stderr."""

    def run(task, tables, *options):
        words = ["--task", task, "--table", *map(str, tables), *options, "--out", str(tmp_path / "out")]
        status = main([*words, "--columns", "audio=path"])
        return status, capsys.readouterr().err

    return run


def write(path, rows):
    """A table of the kind that the path's ending names."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    else:
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        path.write_text("".join("\t".join(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_a_table_of_each_kind_serves_translation(corpus, run, kind):
    table = write(corpus / f"all.{kind}", ROWS)
    assert run("speech_translation", [table], "--split-column", "set", "--vocab-type", "char")[0] == 0
    train, dev = (read_manifest(corpus / "out" / f"{split}.tsv") for split in ("train", "dev"))
    check_audio(train + dev, DataConfig.load(corpus / "out").audio_folder)
    found = [(row.id, row.n_frames, row.src_text, row.tgt_text, row.speaker) for row in train + dev]
    assert found == [
        ("a", 8000, "AN OAK", "eine Eiche", "ann"),
        ("b", 9600, "A LAKE", "ein See", "bob"),
        ("c", 16000, "THE, SEA", 'das "Meer"', "ann"),
    ]
    assert set(DataConfig.load(corpus / "out").vocabularies) == {"target", "source", "ctc"}


def test_a_table_is_a_split_and_serves_recognition(corpus, run):
    tables = [write(corpus / "first.tsv", ROWS[:1]), f"valid={write(corpus / 'second.csv', ROWS[1:2])}"]
    assert run("audio_finetuning", tables)[0] == 0
    first, valid = (read_split(corpus / "out", split) for split in ("first", "valid"))
    assert (first.labels, valid.labels) == (["A N | O A K |"], ["A | L A K E |"])
    assert first.audio.samples.tolist() == [8000] and (corpus / "out" / "dict.ltr.txt").is_file()


def test_parses_or_else_texts_are_targets_of_understanding(corpus, run):
    rows = [{**row, "parse": parse} for row, parse in zip(ROWS, PARSES)]
    rows[1]["parse"] = ""
    assert run("spoken_language_understanding", [write(corpus / "train.jsonl", rows)])[0] == 0
    targets = [row.tgt_text for row in read_manifest(corpus / "out" / "train.tsv")]
    assert targets == [PARSES[0], "A LAKE", PARSES[2]]
    assert (corpus / "out" / "labels.txt").read_text().splitlines() == ["[IN:SEE", " [SL:TREE", " [SL:WATER"]


def test_audio_alone_needs_no_text(corpus, run):
    table = write(corpus / "train.csv", [{"path": row["path"]} for row in ROWS])
    assert run("ssl_distillation", [table])[0] == 0
    assert read_waveform_manifest(corpus / "out" / "train.tsv").samples.tolist() == list(SAMPLES.values())


def test_segments_stay_in_their_file_or_become_files(corpus, run):
    rows = [
        {**ROWS[2], "offset": 0.25, "duration": 0.5},
        {**ROWS[2], "offset": 0.75, "duration": 0.26},  # 10 ms after the end: rounding of whoever cut it
    ]
    table = write(corpus / "train.tsv", rows)
    assert run("speech_translation", [table], "--vocab-type", "char")[0] == 0
    places = [(row.id, row.offset, row.n_frames) for row in read_manifest(corpus / "out" / "train.tsv")]
    assert places == [("c-00000250", 4000, 8000), ("c-00000750", 12000, 4000)]
    status, errors = run("audio_finetuning", [table], "--overwrite", "--dict", "corpus")
    assert status == 2 and "train.tsv, line 2: a part of" in errors and "--convert" in errors
    assert run("audio_finetuning", [table], "--overwrite", "--dict", "corpus", "--convert")[0] == 0
    audio = read_split(corpus / "out", "train").audio
    whole = soundfile.read(corpus / "c.wav", dtype="int16")[0]
    for path, (start, end) in zip(audio.paths, [(4000, 12000), (12000, 16000)]):
        np.testing.assert_array_equal(soundfile.read(audio.root / path, dtype="int16")[0], whole[start:end])


BAD = {
    "an empty text": ({"text": " "}, "text empty"),
    "no such audio": ({"path": "z.wav"}, "z.wav: no such audio file"),
    "a bad number": ({"offset": "soon"}, "offset must be a number of seconds, found 'soon'"),
    "nan": ({"offset": "nan"}, "offset must be a number of seconds, found 'nan'"),
    "after the end": ({"offset": 2}, "c.wav ends at 1 s"),
    "nothing long": ({"duration": 0}, "duration is 0"),
    "an id twice": ({"id": "0"}, "the id 0 stands in"),
    "a split that is a path": ({"set": "../x"}, "split '../x' cannot be the name of a file"),
}


@pytest.mark.parametrize("change, problem", BAD.values(), ids=BAD)
@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_a_bad_row_is_named_and_can_be_left_out(corpus, run, kind, change, problem):
    rows = [{"id": str(i), "offset": 0, "duration": "", **row} for i, row in enumerate(ROWS)]
    rows[2].update(change)
    table, line = write(corpus / f"all.{kind}", rows), 3 if kind == "jsonl" else 4
    options = ("--split-column", "set")
    if "id" in change:
        rows[2]["set"] = "train"
        write(table, rows)
    status, errors = run("audio_finetuning", [table], *options, "--dict", "corpus")
    assert status == 2 and errors.count("\n") == 1
    assert f"{table}, line {line}: " in errors and problem in errors
    assert not (corpus / "out").exists()
    if "no such audio" not in problem and "ends at" not in problem:  # or else nothing is left of dev
        assert run("audio_finetuning", [table], *options, "--dict", "corpus", "--skip-bad")[0] == 0
        skipped = (corpus / "out" / "skipped.tsv").read_text().splitlines()
        assert len(skipped) == 2 and problem in skipped[1] and f"line {line}" in skipped[1]


def test_tables_that_are_none_are_refused(corpus, run):
    for name, content, problem in (
        ("a.txt", "path\n", "expected a table that ends in .tsv, .csv, .jsonl"),
        ("a.tsv", "", "a.tsv, line 1: expected the names of the columns"),
        ("a.tsv", "path\tpath\n", "two columns are named 'path'"),
        ("a.tsv", "file\ttext\na.wav\tA\n", "line 2: no column path (see --columns); found file, text"),
        ("a.tsv", "path\ttext\na.wav\n", "line 2: expected 2 fields as in line 1, found 1"),
        ("a.csv", 'path,text\na.wav,"A\n', "a.csv, line 2: not a csv table"),
        ("a.jsonl", "[1]\n", "line 1: expected a JSON object, found '[1]'"),
        ("a.jsonl", "{\n", "line 1: not JSON"),
        ("a.jsonl", "", "no utterance"),
    ):
        (corpus / name).write_text(content)
        status, errors = run("audio_finetuning", [corpus / name])
        assert status == 2 and problem in errors and errors.count("\n") == 1, errors


def test_line_breaks_within_csv_fields_count_as_lines(tmp_path):
    (tmp_path / "a.csv").write_text('path,text\na.wav,"one\ntwo"\nb.wav,three\n')
    assert [(where.rsplit(" ")[-1], row["text"]) for where, row in read_table(tmp_path / "a.csv")] == [
        ("2", "one\ntwo"),
        ("4", "three"),
    ]
