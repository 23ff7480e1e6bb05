"""SLURP's and STOP's releases as manifests, and texts that are read aloud."""

import numpy as np
import pytest
import soundfile
from slu_corpus import slurp_row, write_jsonl

from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.preparation import slurp as prep_slurp
from fairseq_prune.preparation import spoken_texts as make_speech
from fairseq_prune.preparation import stop as prep_stop
from fairseq_prune.preparation.audio_files import Skipped
from fairseq_prune.preparation.layouts.slu_texts import read_texts
from fairseq_prune.text.meanings import Meaning, parse

ROWS = [
    slurp_row(1, "wake me at nine", "alarm", "set", [("time", 2, 3)], ["a.flac", "a-headset.flac"]),
    slurp_row(2, "play jazz", "play", "music", [("music_genre", 1, 1)], ["b.flac"]),
    slurp_row(3, "stop", "audio", "volume_mute", (), ["c.flac"]),
    slurp_row(4, "Stop", "audio", "volume_mute", (), ["d.flac"]),
    slurp_row(5, "wake me", "alarm", "set", (), ["e.flac"]),
]
STOP_HEADER = (
    "file_id domain normalized_utterance normalized_seqlogical decoupled_normalized_seqlogical".split()
)
STOP_ROWS = {
    "train": [
        ("t/0.wav", "weather", "rain  today", "[IN:W rain [SL:D today ] ]", "[IN:W [SL:D today ] ]"),
        ("t/1.wav", "alarm", "no alarm", "[IN:A no alarm ]", "[IN:A ]"),
    ],
    "eval": [("e/0.wav", "weather", "sun", "[IN:W sun ]", "[IN:W ]")],
    "test": [("s/0.wav", "weather", "snow", "[IN:W snow ]", "[IN:W ]")],
}


@pytest.fixture
def slurp(tmp_path):
    for name in (name["file"] for row in ROWS for name in row["recordings"]):
        (tmp_path / "audio" / "slurp_real").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "audio" / "slurp_real" / name, np.full(1600, 0.1), 16000)
    return write_jsonl(tmp_path / "all.jsonl", ROWS)


@pytest.fixture
def stop(tmp_path):
    root = tmp_path / "stop"
    (root / "manifests").mkdir(parents=True)
    for split, rows in STOP_ROWS.items():
        lines = ["\t".join(row) for row in (STOP_HEADER, *rows)]
        (root / "manifests" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        for row in rows:
            (root / row[0]).parent.mkdir(exist_ok=True)
            soundfile.write(root / row[0], np.full(1600, 0.1), 16000)
    return root


def test_every_recording_of_slurp_becomes_a_row(slurp, tmp_path):
    out, paths = tmp_path / "data", [str(slurp)]
    options = ["--audio", str(tmp_path / "audio"), "--out", str(out)]
    assert prep_slurp.main(["--train", *paths, "--dev", *paths, "--test", *paths, *options]) == 0
    rows = read_manifest(out / "train.tsv")
    check_audio(rows, out)
    assert [row.id for row in rows] == ["a.flac", "a-headset.flac", "b.flac", "c.flac", "d.flac", "e.flac"]
    assert rows[0].tgt_text == "[IN:alarm_set [SL:time at nine ] ]"
    assert rows[0].n_frames == 1600 and rows[0].src_text == "wake me at nine"
    labels = (out / "labels.txt").read_text().splitlines()
    assert labels == [
        "[IN:alarm_set",
        "[IN:audio_volume_mute",
        "[IN:play_music",
        " [SL:music_genre",
        " [SL:time",
    ]


def test_parses_with_all_words_mean_the_same(slurp):
    short, whole = (
        prep_slurp.read_entries("train", [slurp], words, True, Skipped(False)) for words in (False, True)
    )
    assert str(whole[0].tree) == "[IN:alarm_set wake me [SL:time at nine ] ]"
    for entry, row in zip(whole, short):
        assert Meaning.from_parse(entry.tree) == Meaning.from_parse(row.tree) == row.meaning


def test_held_out_sentences_are_in_no_other_split(slurp, tmp_path):
    out = tmp_path / "texts"
    options = ["--train", str(slurp), "--hold-out", "1", "1", "--text-only", "--out", str(out)]
    assert prep_slurp.main(options) == 0
    texts = {split: read_texts(out / f"{split}.texts.tsv") for split in ("train", "dev", "test")}
    sentences = {split: {row.src_text.lower() for row in rows} for split, rows in texts.items()}
    assert len(sentences["dev"]) == len(sentences["test"]) == 1
    assert (
        not sentences["train"] & (sentences["dev"] | sentences["test"])
        and not sentences["dev"] & sentences["test"]
    )
    assert sum(map(len, texts.values())) == len(ROWS)


def test_rare_intents_and_other_scenarios_are_left_out(slurp):
    entries = prep_slurp.read_entries("train", [slurp], False, True, Skipped(False))
    assert {entry.meaning.intent for entry in prep_slurp.select(entries, None, 2)} == {
        "alarm_set",
        "audio_volume_mute",
    }
    assert [entry.id for entry in prep_slurp.select(entries, ["play"], 1)] == ["2"]


@pytest.mark.parametrize(
    "options, problem",
    [
        (
            ["--hold-out", "3", "1", "--text-only"],
            "--hold-out 3 1: expected two numbers above 0, and less than 4",
        ),
        (["--hold-out", "1", "1", "--text-only", "--scenarios", "iot"], "no utterance of 'iot'"),
        (["--hold-out", "1", "1", "--text-only", "--min-intent-count", "9"], "no intent occurs so often"),
        (["--hold-out", "1", "1", "--audio", "/nowhere"], "/nowhere: no such folder"),
        (["--hold-out", "1", "1", "--audio", "."], "recording c.flac is not below --audio"),
        (["--text-only"], "expected either --dev and --test, or --hold-out"),
    ],
)
def test_bad_options_of_slurp_are_refused(options, problem, slurp, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert prep_slurp.main(["--train", str(slurp), *options, "--out", str(tmp_path / "out")]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sentence_without_text_is_refused(tmp_path, capsys):
    path = write_jsonl(tmp_path / "x.jsonl", [slurp_row(1, "ok", "a", "b"), slurp_row(2, " ", "a", "b")])
    options = ["--hold-out", "1", "1", "--text-only", "--out", str(tmp_path / "out")]
    assert prep_slurp.main(["--train", str(path), *options]) == 2
    assert "x.jsonl, line 2: the sentence is empty" in capsys.readouterr().err


@pytest.mark.parametrize("kind, column", [("decoupled", 4), ("full", 3)])
def test_stop_becomes_manifests(kind, column, stop, tmp_path):
    out = tmp_path / "data"
    assert prep_stop.main(["--stop-root", str(stop), "--parse", kind, "--out", str(out)]) == 0
    for split, theirs in (("train", "train"), ("dev", "eval"), ("test", "test")):
        rows = read_manifest(out / f"{split}.tsv")
        check_audio(rows, out)
        assert [row.tgt_text for row in rows] == [row[column] for row in STOP_ROWS[theirs]]
        assert [row.id for row in rows] == [row[0] for row in STOP_ROWS[theirs]]
    assert read_manifest(out / "train.tsv")[0].src_text == "rain today"
    assert (out / "labels.txt").read_text().splitlines() == ["[IN:A", "[IN:W", " [SL:D"]


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("[IN:W [SL:D today ] ]", "[IN:W [SL:D today ]", "train.tsv, line 2: malformed parse"),
        ("decoupled_normalized_seqlogical", "parse", "no column decoupled_normalized_seqlogical"),
        ("\tno alarm\t", "\t\t", "train.tsv, line 3: expected 5 texts"),
        ("t/1.wav", "t/2.wav", "2.wav: no such audio file"),
    ],
)
def test_a_bad_manifest_of_stop_is_refused(old, new, problem, stop, tmp_path, capsys):
    path = stop / "manifests" / "train.tsv"
    path.write_text(path.read_text().replace(old, new))
    assert prep_stop.main(["--stop-root", str(stop), "--out", str(tmp_path / "out")]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_texts_are_spoken_by_voices_that_the_test_split_does_not_share(stop, tmp_path):
    texts, out = tmp_path / "texts", tmp_path / "data"
    assert prep_stop.main(["--stop-root", str(stop), "--text-only", "--out", str(texts)]) == 0
    voices = ["--voices", "en-us", "en-gb+f2", "--test-voices", "en-us+m3"]
    assert make_speech.main([str(texts), "--out", str(out), "--copies", "2", *voices]) == 0
    rows = {split: read_manifest(out / f"{split}.tsv") for split in ("train", "dev", "test")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 4, "dev": 1, "test": 1}
    assert {row.speaker for row in rows["train"]} == {"en-us", "en-gb+f2"}
    assert {row.speaker for row in rows["test"]} == {"en-us+m3"}
    assert all(row.n_frames > 1600 and parse(row.tgt_text) for found in rows.values() for row in found)
    check_audio(rows["train"], out)
    assert (out / "labels.txt").read_bytes() == (texts / "labels.txt").read_bytes()


@pytest.mark.parametrize(
    "options, problem",
    [
        (["--test-voices", "en-us"], "--test-voices en-us: also among --voices"),
        (["--voices", "en-us", "klingon"], "klingon"),
        (["--voices", "en-us", "--copies", "2"], "--copies 2: expected 1 to 1"),
        (["--rate", "10", "20"], "--rate 10 20"),
    ],
)
def test_bad_options_of_speech_are_refused(options, problem, stop, tmp_path, capsys):
    texts = tmp_path / "texts"
    assert prep_stop.main(["--stop-root", str(stop), "--text-only", "--out", str(texts)]) == 0
    assert make_speech.main([str(texts), "--out", str(tmp_path / "data"), *options]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, problem",
    [
        ("id\tsrc_text\ttgt_text\n", "found no text"),
        ("a\tb\n", "expected the columns"),
        (None, "no such file"),
    ],
)
def test_texts_that_are_none_are_refused(content, problem, tmp_path, capsys):
    if content is not None:
        (tmp_path / "train.texts.tsv").write_text(content)
    assert make_speech.main([str(tmp_path), "--out", str(tmp_path / "data")]) == 2
    assert problem in capsys.readouterr().err


def changed(number, **change):
    """The rows, one of them changed."""
    return [{**row, **change} if i == number else row for i, row in enumerate(ROWS)]


BAD_ENTRIES = {
    "listed twice": (1, {"recordings": [{"file": "a.flac"}]}, "recording a.flac is listed twice, first in"),
    "twice in one entry": (1, {"recordings": [{"file": "b.flac"}] * 2}, "recording b.flac is listed twice"),
    "no recordings": (1, {"recordings": []}, "utterance 2 has no recordings"),
    "type null": (1, {"entities": [{"type": None, "span": [1]}]}, "None"),
    "span -1": (1, {"entities": [{"type": "music_genre", "span": [-1]}]}, "-1"),
    "no such audio": (1, {"recordings": [{"file": "z.flac"}]}, "recording z.flac is not below --audio"),
    "sentence null": (1, {"sentence": None}, "no SLURP entry"),
}


@pytest.mark.parametrize("number, change, problem", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_bad_entries_of_slurp_are_named_and_can_be_left_out(slurp, tmp_path, capsys, number, change, problem):
    bad = write_jsonl(tmp_path / "bad.jsonl", changed(number, **change))
    words = ["--train", str(bad), "--dev", str(slurp), "--test", str(slurp)]
    words += ["--audio", str(tmp_path / "audio"), "--out", str(tmp_path / "data")]
    assert prep_slurp.main(words) == 2
    errors = capsys.readouterr().err
    assert f"{bad}, line {number + 1}: " in errors and problem in errors
    assert not (tmp_path / "data").exists()
    assert prep_slurp.main([*words, "--skip-bad"]) == 0
    assert "b.flac" not in {row.id for row in read_manifest(tmp_path / "data" / "train.tsv")}
    assert problem in (tmp_path / "data" / "skipped.tsv").read_text()


def test_two_files_of_the_name_of_a_recording_stop_slurp_with_both_paths(slurp, tmp_path, capsys):
    audio = tmp_path / "audio"
    for folder in ("backup", "slurp_synth"):
        (audio / folder).mkdir()
    (audio / "backup" / "unused.flac").write_bytes(b"")
    (audio / "slurp_synth" / "unused.flac").write_bytes(b"")  # no recording has this name
    words = [
        "--train",
        str(slurp),
        "--hold-out",
        "1",
        "1",
        "--audio",
        str(audio),
        "--out",
        str(tmp_path / "data"),
    ]
    assert prep_slurp.main(words) == 0
    soundfile.write(audio / "backup" / "b.flac", np.full(3200, 0.1), 16000)
    assert prep_slurp.main([*words, "--overwrite"]) == 2
    errors = capsys.readouterr().err
    assert f"{audio / 'backup' / 'b.flac'} and {audio / 'slurp_real' / 'b.flac'}" in errors


def test_ids_of_texts_are_unique_and_name_files(tmp_path):
    for ids, problem in (
        (("1", "1"), "line 3: the id 1 stands in line 2"),
        (("a/b", "1"), "cannot be the name"),
    ):
        path = tmp_path / "train.texts.tsv"
        path.write_text("id\tsrc_text\ttgt_text\n" + "".join(f"{name}\tgo\t[IN:GO ]\n" for name in ids))
        with pytest.raises(ValueError, match=problem):
            read_texts(path)
