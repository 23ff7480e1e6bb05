"""prep_mustc.py: what it makes, what it refuses with one line and status 2, and what it leaves behind.

Over 300 lines: each refusal of the command has a test.
"""

import hashlib
import shutil
from subprocess import CompletedProcess

import numpy as np
import pytest
import soundfile
import yaml
from mustc_corpus import SEGMENTS, WORDS, run_prep_mustc, tone

from fairseq_prune.data.audio import read_audio, resample
from fairseq_prune.data.config import DataConfig
from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.preparation import mustc as prep_mustc

SIZES = ["--vocab-size", "24", "--src-vocab-size", "24"]


@pytest.fixture()
def corpus(must_c_root, tmp_path):
    """A copy of the corpus that a test may damage; its training split."""
    shutil.copytree(must_c_root, tmp_path / "root")
    return tmp_path / "root" / "en-de" / "data" / "train"


@pytest.fixture()
def prepare(corpus, capsys):
    """Runs the command on the damaged corpus in this process; gives its result and its output folder."""

    def run(*options):
        out = corpus.parents[3] / "out"
        words = ["--data-root", corpus.parents[2], "--tgt-lang", "de", "--out", out, "--workers", 2]
        try:
            status = prep_mustc.main([str(word) for word in [*words, *SIZES, *options]])
        except SystemExit as end:  # argparse
            status = end.code
        printed = capsys.readouterr()
        return CompletedProcess(options, status, printed.out, printed.err), out

    return run


def change_segment(corpus, number, **changes):
    """Change a segment's entry in the yaml file; segments count from 1."""
    path = corpus / "txt" / "train.yaml"
    items = yaml.safe_load(path.read_text())
    items[number - 1].update(changes)
    path.write_text("".join(f"- {yaml.safe_dump(item, default_flow_style=True)}" for item in items))


def change_text(corpus, language, number, text):
    path = corpus / "txt" / f"train.{language}"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def refused(run, out):
    """The one line of a run that made nothing."""
    assert run.returncode == 2, run.stderr
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [run.stderr.splitlines()[-1]]
    assert not out.exists()
    assert not list(out.parent.glob(".out-unfinished-*"))
    return lines[0]


# -- what it makes


def test_manifests_have_every_segment_with_its_texts(prepared_data, must_c_root):
    for split, count in SEGMENTS.items():
        rows = read_manifest(prepared_data / f"{split}.tsv")
        txt = must_c_root / "en-de" / "data" / split / "txt"
        segments = yaml.safe_load((txt / f"{split}.yaml").read_text())
        assert len(rows) == 2 * count == len({row.id for row in rows})
        for language, column in (("en", "src_text"), ("de", "tgt_text")):
            lines = (txt / f"{split}.{language}").read_text(encoding="utf-8").splitlines()
            assert [getattr(row, column) for row in rows] == lines
        assert [row.speaker for row in rows] == [segment["speaker_id"] for segment in segments]
        assert [row.offset for row in rows] == [round(16000 * segment["offset"]) for segment in segments]
        assert [row.n_frames for row in rows] == [round(16000 * segment["duration"]) for segment in segments]


def test_segments_hold_the_words_of_their_transcripts(prepared_data):
    """The words are tones at 8 kHz, read at 16 kHz."""
    folder = DataConfig.load(prepared_data).audio_folder
    for row in read_manifest(prepared_data / "dev.tsv"):
        words = np.concatenate([tone(word) for word in row.src_text.split()]).astype(np.float32)
        expected = resample(words, 8000, 16000)
        found = read_audio(folder / row.audio, row.offset, row.n_frames)
        assert row.n_frames == len(expected)
        assert np.abs(found - expected)[50:-50].max() < 0.01


def test_no_audio_is_copied_and_all_of_it_is_found(prepared_data):
    config = DataConfig.load(prepared_data)
    for split in SEGMENTS:
        check_audio(read_manifest(config.manifest(split)), config.audio_folder)
    assert not list(prepared_data.glob("**/*.wav"))


def test_vocabularies_are_those_of_the_texts(prepared_data):
    vocabularies = DataConfig.load(prepared_data).load_vocabularies()
    assert list(vocabularies) == ["target", "source", "ctc"]
    assert len(vocabularies["target"]) == len(vocabularies["source"]) == 24
    german, english = " ".join(WORDS.values()), " ".join(WORDS)
    assert vocabularies["target"].decode(vocabularies["target"].encode(german)) == german
    assert vocabularies["source"].decode(vocabularies["source"].encode(english)) == english
    letters = set("".join(WORDS))
    assert set(vocabularies["ctc"].dictionary.symbols[4:]) == letters | {"\u2581"}


def test_report_has_hours_kept_dropped_and_absent_splits(corpus, prepare):
    run, out = prepare("--max-seconds", "0.35")
    assert run.returncode == 0, run.stderr
    rows = read_manifest(out / "train.tsv")
    assert max(row.n_frames for row in rows) <= 0.35 * 16000
    dropped = 24 - len(rows)
    assert dropped > 0
    hours = sum(row.n_frames for row in rows) / 16000 / 3600
    train, dev, test, absent, vocabularies = run.stdout.splitlines()[1:]
    assert train.split() == [
        "train",
        f"{hours:.2f}",
        str(len(rows)),
        str(dropped),
        str(dropped),
        "too",
        "long",
    ]
    assert dev.split()[2:] == ["6", "0"], "limits are for training only"
    assert test.split()[0] == "tst-COMMON"
    assert absent.split() == ["tst-HE", "not", "in", "this", "corpus"]
    assert vocabularies == "vocabularies: target 24, source 24, ctc 18"


def test_dropped_segments_are_listed(corpus, prepare):
    change_text(corpus, "de", 5, " ")
    change_segment(corpus, 7, duration="long")
    run, out = prepare("--skip-bad", "--min-seconds", "0.25")
    assert run.returncode == 0, run.stderr
    header, *lines = [line.split("\t") for line in (out / "dropped.tsv").read_text().splitlines()]
    assert header == ["split", "segment", "wav", "reason", "detail"]
    assert ["train", "5", "ted_train_1.wav", "empty target", ""] in lines
    found = "duration must be a number of seconds, found 'long'"
    assert ["train", "7", "ted_train_1.wav", "bad time", found] in lines
    assert "1 bad time" in run.stdout
    short = [line for line in lines if line[3] == "too short"]
    assert short
    assert all(line[4] == "0.2 s" for line in short)
    assert len(read_manifest(out / "train.tsv")) == 24 - len(lines)


def test_joint_vocabulary_is_one_file_for_both(corpus, prepare):
    run, out = prepare("--joint-vocab", "--vocab-size", "34")
    assert run.returncode == 0, run.stderr
    vocabularies = DataConfig.load(out).load_vocabularies()
    assert vocabularies["source"] is vocabularies["target"]
    assert not list(out.glob("*source*"))
    text = "one two eins zwei"
    assert vocabularies["target"].decode(vocabularies["target"].encode(text)) == text


def test_given_vocabulary_is_used_for_both_texts(corpus, prepared_data, prepare):
    given = ["--spm-model", prepared_data / "spm.model", "--dict", prepared_data / "dict.txt"]
    run, out = prepare(*given, "--splits", "dev")
    assert run.returncode == 0, run.stderr
    vocabularies = DataConfig.load(out).load_vocabularies()
    assert vocabularies["source"] is vocabularies["target"]
    assert (out / "spm.model").read_bytes() == (prepared_data / "spm.model").read_bytes()
    assert "no vocabularies of the transcripts" in run.stdout
    assert not (out / "train.tsv").exists()


def test_corpus_without_transcripts_has_a_target_vocabulary_only(corpus, prepare):
    for path in corpus.parent.glob("*/txt/*.en"):
        path.write_text("\n" * len(path.read_text().splitlines()))
    run, out = prepare("--splits", "train")
    assert run.returncode == 0, run.stderr
    assert list(DataConfig.load(out).vocabularies) == ["target"]


def test_output_is_the_same_for_any_number_of_workers(corpus, prepare):
    def digests(out):
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}

    first, out = prepare("--workers", "1")
    found = digests(out)
    second, out = prepare("--workers", "3", "--overwrite")
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stdout == second.stdout
    assert digests(out) == found


def test_large_yaml_is_read_in_pieces(corpus, prepare):
    """More segments than one piece of the yaml file holds."""
    txt = corpus / "txt"
    for end in ("yaml", "en", "de"):
        path = txt / f"train.{end}"
        path.write_text(path.read_text(encoding="utf-8") * 200, encoding="utf-8")
    run, out = prepare()
    assert run.returncode == 0, run.stderr
    rows = read_manifest(out / "train.tsv")
    assert len(rows) == 4800 == len({row.id for row in rows})
    assert [row[1:] for row in rows[:24]] * 200 == [row[1:] for row in rows]


def test_segment_that_ends_a_little_late_is_cut_at_the_end(corpus, prepare):
    end = soundfile.info(corpus / "wav" / "ted_train_1.wav").duration
    change_segment(corpus, 3, offset=end - 0.5, duration=0.53)
    run, out = prepare()
    assert run.returncode == 0, run.stderr
    row = read_manifest(out / "train.tsv")[2]
    assert row.offset + row.n_frames == round(end * 16000)


# -- what it refuses: one line, and nothing is left


def damage_wav(corpus):
    (corpus / "wav" / "ted_train_2.wav").unlink()


def damage_wav_content(corpus):
    (corpus / "wav" / "ted_train_2.wav").write_text("no audio")


def damage_wav_end(corpus):
    path = corpus / "wav" / "ted_train_2.wav"
    path.write_bytes(path.read_bytes()[:20_000])


BAD_ROWS = {
    "missing wav": (damage_wav, r"segment 13 (ted_train_2.wav): missing wav", 12),
    "unreadable wav": (damage_wav_content, "segment 13 (ted_train_2.wav): unreadable wav", 12),
    "truncated wav": (damage_wav_end, "(ted_train_2.wav): past the end of its file ends at", None),
    "empty target": (lambda c: change_text(c, "de", 4, ""), "segment 4 (ted_train_1.wav): empty target", 1),
    "late offset": (
        lambda c: change_segment(c, 7, offset=999.0),
        "segment 7 (ted_train_1.wav): past the end of its file ends at 999",
        1,
    ),
    "no audio": (
        lambda c: change_segment(c, 7, duration=0.0),
        "segment 7 (ted_train_1.wav): no audio 0 s at",
        1,
    ),
    "non-number": (
        lambda c: change_segment(c, 2, offset="soon"),
        "segment 2 (ted_train_1.wav): bad time offset must be a number of seconds, found 'soon'",
        1,
    ),
    "negative": (
        lambda c: change_segment(c, 2, duration=-1.0),
        "segment 2 (ted_train_1.wav): bad time duration must be a number of seconds, found -1.0",
        1,
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_segment_stops_it_with_file_and_row_unless_skipped(corpus, case, prepare):
    damage, message, count = BAD_ROWS[case]
    damage(corpus)
    run, out = prepare()
    line = refused(run, out)
    assert f"{corpus / 'txt' / 'train'}.yaml, " in line
    assert message in line
    assert line.endswith("bad in train, --skip-bad leaves them out")
    run, out = prepare("--skip-bad")
    assert run.returncode == 0, run.stderr
    dropped = 24 - len(read_manifest(out / "train.tsv"))
    assert dropped > 0
    assert count in (None, dropped)


BROKEN = {
    "no wav": (
        lambda c: (c / "txt" / "train.yaml").write_text("- {offset: 1.0, duration: 2.0}\n"),
        "train.yaml, segment 1: no wav; found offset, duration",
    ),
    "not yaml": (lambda c: (c / "txt" / "train.yaml").write_text("- {"), "train.yaml: not valid yaml"),
    "not a list": (
        lambda c: (c / "txt" / "train.yaml").write_text("a: 1"),
        "train.yaml: expected a list of segments, found dict",
    ),
    "empty yaml": (
        lambda c: (c / "txt" / "train.yaml").write_text(""),
        "train.yaml: expected 24 segments, a line of train.en each, found 0",
    ),
    "fewer translations": (
        lambda c: (c / "txt" / "train.de").write_text("eins\n"),
        "train.de: expected 24 lines as in train.en, found 1",
    ),
    "fewer lines": (
        lambda c: [(c / "txt" / f"train.{end}").write_text("x\n") for end in ("en", "de")],
        "train.yaml, segment 2: expected 1 segments, a line of train.en each",
    ),
    "missing text": (lambda c: (c / "txt" / "train.de").unlink(), "train.de: no such file"),
    "missing yaml": (lambda c: (c / "txt" / "train.yaml").unlink(), "train.yaml: no such file"),
    "not UTF-8": (
        lambda c: (c / "txt" / "train.de").write_bytes(b"\xff\xfe"),
        "train.de, line 1: expected UTF-8 text",
    ),
    "missing split": (lambda c: shutil.rmtree(c), "vocabularies are trained on train, found only dev"),
    "missing pair": (
        lambda c: c.parents[1].rename(c.parents[2] / "en-fr"),
        "en-de/data: no such folder; expected the layout of MuST-C",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_corpus_is_refused(corpus, case, prepare):
    damage, message = BROKEN[case]
    damage(corpus)
    assert message in refused(*prepare())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vocab-size", "5000"], "--vocab-size: the texts allow at most 24 symbols, asked for 5000"),
        (["--src-vocab-size", "5"], "--src-vocab-size: the alphabet of the texts needs at least 18 symbols"),
        (["--ctc-vocab-type", "bpe"], "--ctc-vocab-size: a bpe vocabulary needs a size"),
        (["--max-seconds", "0.1"], "train: no segment is left of 24"),
        (["--splits", "train", "absent"], "absent/txt/absent.en: no such file"),
        (["--spm-model", "a", "--dict", "b"], "a: no such vocabulary file"),
    ],
)
def test_options_that_do_not_fit_the_corpus_are_refused(corpus, options, message, prepare):
    assert message in refused(*prepare(*options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--spm-model", "a"], "--spm-model and its dictionary go together"),
        (["--spm-model", "a", "--dict", "b", "--joint-vocab"], "--joint-vocab trains a vocabulary"),
        (["--min-seconds", "5", "--max-seconds", "2"], "nothing is left"),
        (["--workers", "0"], "--workers: found 0, expected a whole number of 1 or more"),
        (["--vocab-type", "word"], "invalid choice: 'word'"),
    ],
)
def test_options_that_make_no_sense_are_refused(prepare, options, message):
    run, _ = prepare(*options)
    assert run.returncode == 2
    assert message in run.stderr.splitlines()[-1]


def test_existing_output_stays_unless_overwrite(corpus, prepare):
    _, out = prepare()
    (out / "mine.txt").write_text("mine")
    run, _ = prepare()
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith(f"error: {out} already exists: choose another --out")
    change_text(corpus, "de", 1, "")
    run, _ = prepare("--overwrite")
    assert run.returncode == 2, "a failing run must not touch what is there"
    assert (out / "mine.txt").exists()
    run, _ = prepare("--overwrite", "--skip-bad", "--src-vocab-size", "20")
    assert run.returncode == 0, run.stderr
    assert not (out / "mine.txt").exists()
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "root"]


# -- as a process


def test_command_ends_with_one_line_and_status_2(corpus):
    damage_wav(corpus)
    out = corpus.parents[3] / "out"
    line = refused(run_prep_mustc(corpus.parents[2], out, *SIZES), out)
    assert "segment 13 (ted_train_2.wav): missing wav" in line
    run = run_prep_mustc(corpus.parents[2], out, *SIZES, "--help")
    assert run.returncode == 0
    assert "--skip-bad" in run.stdout
