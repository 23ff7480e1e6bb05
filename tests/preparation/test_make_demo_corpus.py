import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from fairseq_prune.preparation.demo_corpus import main
from fairseq_prune.preparation.synthesis.demo_grammar import all_sentences

MAKE_DEMO_CORPUS = Path(__file__).resolve().parents[2] / "data_prep" / "make_demo_corpus.py"

try:
    import espeakng_loader  # noqa: F401

    missing = False
except ImportError:
    missing = True
needs_espeak = pytest.mark.skipif(missing, reason="espeakng-loader is not installed")
SIZES = ["--train-utterances", "14", "--dev-utterances", "5", "--test-utterances", "6"]
SMALL = [*SIZES, "--utterances-per-talk", "3"]


@pytest.fixture
def run(capsys):
    """Runs make_demo_corpus in this process; returns its exit status, what it printed, and its errors."""

    def run(out, *options):
        try:
            status = main(["--out", str(out), *map(str, options)])
        except SystemExit as exit:
            status = exit.code
        return (status, *capsys.readouterr())

    return run


def read_texts(out, split):
    folder = out / "en-de" / "data" / split / "txt"
    texts = [(folder / f"{split}.{side}").read_text(encoding="utf-8").splitlines() for side in ("en", "de")]
    return list(zip(*texts))


def read_segments(out, split):
    return yaml.safe_load((out / "en-de" / "data" / split / "txt" / f"{split}.yaml").read_text())


def contents(out):
    return {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@needs_espeak
def test_sentences_are_of_the_grammar_and_of_one_split_only(tmp_path, run):
    _, report, _ = run(tmp_path / "out", *SMALL)
    splits = [read_texts(tmp_path / "out", split) for split in ("train", "dev", "tst-COMMON")]
    assert [len(texts) for texts in splits] == [14, 5, 6]
    assert len({text for texts in splits for text in texts}) == 25
    assert {text for texts in splits for text in texts} <= set(all_sentences())
    assert "sentences that are also in train: dev 0, tst-COMMON 0" in report


@needs_espeak
def test_segments_hold_speech_at_16_khz_and_silence_lies_between_them(tmp_path, run):
    run(tmp_path / "out", *SMALL)
    folder = tmp_path / "out" / "en-de" / "data" / "train" / "wav"
    audio = {path.name: soundfile.read(path) for path in folder.iterdir()}
    silent = {name: np.ones(len(samples), dtype=bool) for name, (samples, _) in audio.items()}
    segments = read_segments(tmp_path / "out", "train")
    for segment, (english, _) in zip(segments, read_texts(tmp_path / "out", "train")):
        samples, rate = audio[segment["wav"]]
        start, end = (round(t * rate) for t in (segment["offset"], segment["offset"] + segment["duration"]))
        silent[segment["wav"]][start:end] = False
        assert rate == 16000
        assert end <= len(samples)
        assert np.sqrt(np.mean(samples[start:end] ** 2)) > 0.02
        assert 0.15 < segment["duration"] / len(english.split()) < 0.6  # seconds a word
    assert len(audio) == 5  # 14 utterances, three a talk
    for name, (samples, _) in audio.items():
        assert not samples[silent[name]].any()


@needs_espeak
def test_equal_seeds_give_equal_corpora(tmp_path, run):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(tmp_path / name, *SMALL, "--seed", seed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


@needs_espeak
def test_a_process_of_its_own_gives_the_same_corpus(tmp_path, run):
    # f2 has breath, whose noise espeak-ng takes from the clock unless told otherwise
    options = [*SMALL, "--voices", "en-gb+f2", "en-us"]
    run(tmp_path / "a", *options)
    command = [sys.executable, MAKE_DEMO_CORPUS, "--out", tmp_path / "b", *options]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (result.returncode, "14/14" in result.stderr) == (0, True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@needs_espeak
def test_test_split_stays_the_same_when_train_grows(tmp_path, run):
    for name, number in (("a", 3), ("b", 6)):
        run(tmp_path / name, *SMALL, "--train-utterances", number)
    first, second = (contents(tmp_path / name / "en-de" / "data" / "tst-COMMON") for name in "ab")
    assert first == second


@needs_espeak
def test_voices_take_turns(tmp_path, run):
    run(tmp_path / "out", *SMALL, "--voices", "en-us", "en-gb+f2")
    speakers = {segment["wav"]: segment["speaker_id"] for segment in read_segments(tmp_path / "out", "train")}
    expected = ["spk.en-us", "spk.en-gb+f2", "spk.en-us", "spk.en-gb+f2", "spk.en-us"]
    assert [speakers[wav] for wav in sorted(speakers)] == expected


@needs_espeak
def test_test_voices_are_kept_out_of_training(tmp_path, run):
    run(
        tmp_path / "out",
        *SMALL,
        "--voices",
        "en-us",
        "en-gb",
        "en-us+f1",
        "--test-voices",
        "en-gb",
        "en-us+m1",
    )
    speakers = {
        split: {segment["speaker_id"] for segment in read_segments(tmp_path / "out", split)}
        for split in ("train", "dev", "tst-COMMON")
    }
    assert speakers["train"] == speakers["dev"] == {"spk.en-us", "spk.en-us+f1"}
    assert speakers["tst-COMMON"] == {"spk.en-gb", "spk.en-us+m1"}


@needs_espeak
def test_rates_vary_within_their_bounds(tmp_path, run):
    def seconds(*options):
        run(tmp_path / "out", *SIZES, "--voices", "en-us", "--overwrite", *options)
        return sum(segment["duration"] for segment in read_segments(tmp_path / "out", "train"))

    slow, mixed, fast = seconds("--rate", 120, 120), seconds("--rate", 120, 240), seconds("--rate", 240, 240)
    assert fast < mixed < slow


@needs_espeak
def test_report_gives_hours_and_vocabulary(tmp_path, run):
    _, report, _ = run(tmp_path / "out", *SMALL)
    row = next(line for line in report.splitlines() if line.startswith("train")).split()
    hours = sum(segment["duration"] for segment in read_segments(tmp_path / "out", "train")) / 3600
    words = [
        {word for text in side for word in text.split()}
        for side in zip(*read_texts(tmp_path / "out", "train"))
    ]
    assert row[1:3] == ["5", "14"]
    assert float(row[3]) == pytest.approx(hours, abs=6e-4)
    assert row[4:6] == [str(len(side)) for side in words]


@needs_espeak
@pytest.mark.parametrize(
    "options, message",
    [
        (["--voices", "en-xx"], "voice 'en-xx': espeak-ng has no 'en-xx'"),
        (["--test-voices", "en-us+nobody"], "voice 'en-us+nobody': espeak-ng has no variant 'nobody'"),
        (["--voices", "en-us", "--test-voices", "en-us"], "--test-voices en-us: no other voice of --voices"),
        (["--rate", "10", "190"], "--rate 10 190: expected 80 <= MIN <= MAX <= 450"),
        (["--pitch", "60", "40"], "--pitch 60 40: expected 0 <= MIN <= MAX <= 99"),
        (["--dev-utterances", "0"], "--dev-utterances: found 0, expected a whole number of 1 or more"),
        (["--seed", "-1"], "--seed: found -1, expected a whole number of 0 or more"),
        (
            ["--utterances-per-talk", "0"],
            "--utterances-per-talk: found 0, expected a whole number of 1 or more",
        ),
        (["--talk-pause", "1", "0.5"], "--talk-pause 1 0.5: expected 0 <= shortest <= longest"),
    ],
)
def test_bad_options_are_refused_in_one_line(tmp_path, run, options, message):
    status, printed, errors = run(tmp_path / "out", *SMALL, *options)
    assert (status, printed) == (2, "")
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@needs_espeak
def test_existing_corpus_is_replaced_only_when_asked(tmp_path, run):
    run(tmp_path / "out", *SMALL)
    before = contents(tmp_path / "out")
    status, _, errors = run(tmp_path / "out", *SMALL, "--seed", 2)
    assert (status, "en-de already exists" in errors) == (2, True)
    assert contents(tmp_path / "out") == before
    assert run(tmp_path / "out", *SMALL, "--seed", 2, "--overwrite")[0] == 0
    assert contents(tmp_path / "out") != before


@needs_espeak
def test_interrupt_leaves_nothing_behind(tmp_path, run, monkeypatch):
    from fairseq_prune.preparation.synthesis.espeak import Espeak

    speak, spoken = Espeak.synthesize, []

    def interrupted(self, *arguments):
        if len(spoken) == 7:
            raise KeyboardInterrupt
        spoken.append(arguments)
        return speak(self, *arguments)

    monkeypatch.setattr(Espeak, "synthesize", interrupted)
    assert run(tmp_path / "out", *SMALL)[0] == 130
    assert len(spoken) == 7
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_synthesiser_is_named_with_its_remedy(tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    status, _, errors = run(tmp_path / "out")
    assert status == 2
    assert (
        errors
        == "error: speech synthesis needs the package espeakng-loader: pip install fairseq-prune[demo]\n"
    )
