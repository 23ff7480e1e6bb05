"""prep_digits.py: what it makes of the recordings, and what it refuses.

Over 300 lines: each refusal of the command has a test.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from fairseq_prune.preparation.digits import main
from fairseq_prune.preparation.layouts.mustc import join_utterances
from fairseq_prune.preparation.synthesis.digit_strings import draw_strings
from fairseq_prune.preparation.synthesis.fsdd import parse_indices, prepare_waveform
from fairseq_prune.preparation.synthesis.german_numbers import ENGLISH_DIGITS, german_pairs

PREP_DIGITS = Path(__file__).resolve().parents[2] / "data_prep" / "prep_digits.py"

RATE = 8000  # Hz
STEP = 0.01  # between the levels of recordings, which tell digit, speaker and index
LEVELS = {"anna": 1, "bert": 2}
INDICES = range(4)
SMALL = ["--test-indices", "0", "--dev-indices", "1", "--train-utterances", "30", "--dev-utterances", "8"]
SMALL += ["--test-utterances", "12", "--utterances-per-talk", "4"]


def length(digit, index):
    """Samples of a recording: distinct, so that what was joined can be read back from durations."""
    return 400 + 40 * digit + 4 * index


def level(digit, speaker):
    return STEP * (1 + 10 * LEVELS[speaker] + digit)


@pytest.fixture
def fsdd(tmp_path):
    """Recordings that are constant: the level tells digit and speaker, the length the index."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for speaker in LEVELS:
        for digit in range(10):
            for index in INDICES:
                samples = np.full(length(digit, index), level(digit, speaker), dtype=np.float32)
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", samples, RATE)
    (folder / "README.md").write_text("not a recording")
    return folder


@pytest.fixture
def run(capsys):
    """Runs prep_digits in this process; returns its exit status, what it printed, and its errors."""

    def run(folder, out, *options):
        try:
            status = main(["--fsdd", str(folder), "--out", str(out), *map(str, options)])
        except SystemExit as exit:
            status = exit.code
        return (status, *capsys.readouterr())

    return run


def read_split(out, split):
    """A split as (segment of the yaml, samples, source, target) for each utterance."""
    folder = out / "en-de" / "data" / split
    segments = yaml.safe_load((folder / "txt" / f"{split}.yaml").read_text())
    texts = [(folder / "txt" / f"{split}.{side}").read_text().splitlines() for side in ("en", "de")]
    assert len(segments) == len(texts[0]) == len(texts[1])
    utterances = []
    for segment, source, target in zip(segments, *texts):
        audio, rate = soundfile.read(folder / "wav" / segment["wav"], dtype="float32")
        start = round(segment["offset"] * rate)
        samples = audio[start : start + round(segment["duration"] * rate)]
        assert len(samples) == round(segment["duration"] * rate)
        utterances.append((segment, samples, source, target))
    return utterances


def runs(samples):
    """The stretches of sound in an utterance, as (level, length)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], samples])) != 0).tolist() + [len(samples)]
    return [(samples[a], b - a) for a, b in zip(edges, edges[1:]) if samples[a] != 0]


def test_audio_says_the_transcript_in_the_recordings_of_its_split(fsdd, tmp_path, run):
    assert run(fsdd, tmp_path / "out", *SMALL, "--pause", "0.01", "0.02")[0] == 0
    for split, indices in (("train", {2, 3}), ("dev", {1}), ("tst-COMMON", {0})):
        for segment, samples, source, _ in read_split(tmp_path / "out", split):
            speaker = segment["speaker_id"].replace("spk.", "")
            digits = [ENGLISH_DIGITS.index(word) for word in source.split()]
            heard = runs(samples)
            assert [level(digit, speaker) for digit in digits] == pytest.approx(
                [loudness for loudness, _ in heard], abs=STEP / 10
            )
            assert all(
                n in {length(digit, index) for index in indices} for digit, (_, n) in zip(digits, heard)
            )


def test_target_is_the_german_of_each_pair(fsdd, tmp_path, run):
    run(fsdd, tmp_path / "out", *SMALL)
    for _, _, source, target in read_split(tmp_path / "out", "train"):
        digits = [ENGLISH_DIGITS.index(word) for word in source.split()]
        assert target == german_pairs(digits)
        assert 4 <= len(digits) <= 12


def test_talks_hold_several_utterances_of_one_speaker(fsdd, tmp_path, run):
    run(fsdd, tmp_path / "out", *SMALL)
    talks = {}
    for segment, *_ in read_split(tmp_path / "out", "train"):
        talks.setdefault(segment["wav"], []).append(segment)
    assert sorted(len(talk) for talk in talks.values()) == [2] + [4] * 7
    for talk in talks.values():
        assert len({segment["speaker_id"] for segment in talk}) == 1
        for before, after in zip(talk, talk[1:]):
            assert 0.3 <= after["offset"] - before["offset"] - before["duration"] <= 1.0


def test_yaml_has_a_line_a_segment_as_in_must_c(fsdd, tmp_path, run):
    run(fsdd, tmp_path / "out", *SMALL)
    text = (tmp_path / "out/en-de/data/dev/txt/dev.yaml").read_text()
    assert len(text.splitlines()) == 8
    for line, (segment, *_) in zip(text.splitlines(), read_split(tmp_path / "out", "dev")):
        keys = "{{duration: {duration}, offset: {offset}, rW: {rW}, speaker_id: {speaker_id}, wav: {wav}}}"
        assert line == "- " + keys.format(**segment)


def test_pairs_are_an_option_of_each_split(fsdd, tmp_path, run):
    run(fsdd, tmp_path / "out", *SMALL, "--train-pairs", 1, 3, "--dev-pairs", 5, 5)
    lengths = [len(source.split()) for *_, source, _ in read_split(tmp_path / "out", "train")]
    assert set(lengths) == {2, 4, 6}
    assert {len(source.split()) for *_, source, _ in read_split(tmp_path / "out", "dev")} == {10}


def test_no_string_of_a_test_split_is_in_train(fsdd, tmp_path, run):
    options = ["--train-pairs", 1, 1, "--dev-pairs", 1, 1, "--test-pairs", 1, 1, "--train-utterances", 400]
    _, report, _ = run(fsdd, tmp_path / "out", *SMALL, *options)
    strings = {
        split: {source for *_, source, _ in read_split(tmp_path / "out", split)}
        for split in ("train", "dev", "tst-COMMON")
    }
    assert not strings["train"] & (strings["dev"] | strings["tst-COMMON"])
    assert not strings["dev"] & strings["tst-COMMON"]
    assert "digit strings that are also in train: tst-COMMON 0 dev 0" in report


def test_equal_seeds_give_equal_corpora(fsdd, tmp_path, run):
    contents = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(fsdd, tmp_path / name, *SMALL, "--seed", seed)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_test_split_stays_the_same_when_train_grows(fsdd, tmp_path, run):
    for name, number in (("a", 10), ("b", 20)):
        run(fsdd, tmp_path / name, *SMALL, "--train-utterances", number)
    first, second = (read_split(tmp_path / name, "tst-COMMON") for name in "ab")
    assert [utterance[2:] for utterance in first] == [utterance[2:] for utterance in second]
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(first, second))


def test_split_without_recordings_is_named_and_not_written(fsdd, tmp_path, run):
    status, report, _ = run(fsdd, tmp_path / "out", *SMALL, "--test-indices", "40-49")
    assert status == 0
    assert (
        "tst-COMMON is not written: no recording of its speakers has an index in 40-49 (found 0 to 3)"
        in report
    )
    assert sorted(path.name for path in (tmp_path / "out/en-de/data").iterdir()) == ["dev", "train"]


def test_report_counts_utterances_and_digits(fsdd, tmp_path, run):
    _, report, _ = run(fsdd, tmp_path / "out", *SMALL)
    row = next(line for line in report.splitlines() if line.startswith("tst-COMMON")).split()
    utterances = read_split(tmp_path / "out", "tst-COMMON")
    assert row[1:3] == ["3", "12"]
    assert float(row[3]) == pytest.approx(sum(len(each[1]) for each in utterances) / RATE / 3600, abs=1e-3)
    assert int(row[4]) == sum(len(source.split()) for *_, source, _ in utterances)


def test_speakers_can_be_split_too(fsdd, tmp_path, run):
    options = ["--train-speakers", "anna", "--dev-speakers", "anna", "--test-speakers", "bert"]
    options += ["--test-indices", "0-3", "--train-indices", "0-2", "--dev-indices", "3"]
    assert run(fsdd, tmp_path / "out", *SMALL, *options)[0] == 0
    assert {each[0]["speaker_id"] for each in read_split(tmp_path / "out", "tst-COMMON")} == {"spk.bert"}
    assert {each[0]["speaker_id"] for each in read_split(tmp_path / "out", "train")} == {"spk.anna"}


def test_sixteen_kilohertz_keeps_the_duration(fsdd, tmp_path, run):
    pause = ["--pause", "0", "0", "--talk-pause", "0.5", "0.5"]
    for rate in (8000, 16000):
        run(fsdd, tmp_path / str(rate), *SMALL, *pause, "--sample-rate", rate)
    assert soundfile.info(tmp_path / "16000/en-de/data/dev/wav/dev_0001.wav").samplerate == 16000
    durations = [
        [each[0]["duration"] for each in read_split(tmp_path / rate, "dev")] for rate in ("8000", "16000")
    ]
    assert durations[0] == pytest.approx(durations[1], abs=1e-3)


def test_trimming_cuts_quiet_edges_only():
    speech = np.sin(np.arange(1600) * 0.3).astype(np.float32)
    quiet = np.full(800, 1e-4, dtype=np.float32)
    waveform = np.concatenate([quiet, speech, quiet, speech, quiet[:450]])
    assert np.array_equal(prepare_waveform(waveform, RATE, trim_db=40), waveform[800:4800])
    assert np.array_equal(prepare_waveform(waveform, RATE, trim_db=120), waveform)
    silence = np.zeros(300, dtype=np.float32)
    assert np.array_equal(prepare_waveform(silence, RATE, trim_db=40), silence)


@pytest.mark.parametrize("normalize", ["peak", "rms"])
def test_normalisation_brings_speakers_to_one_level(normalize):
    speech = np.random.default_rng(1).normal(size=2000).astype(np.float32)
    measure = {"peak": lambda x: np.abs(x).max(), "rms": lambda x: np.sqrt(np.mean(x**2))}[normalize]
    for gain in (0.001, 0.2):
        result = prepare_waveform(gain * speech, RATE, normalize, level=-20)
        assert measure(result) == pytest.approx(0.1, rel=1e-4)
        assert result.dtype == np.float32


def test_normalisation_never_clips():
    click = np.zeros(1000, dtype=np.float32)
    click[500] = 0.5
    assert np.abs(prepare_waveform(click, RATE, "rms", level=-26)).max() == pytest.approx(1)


def test_joined_utterances_lie_where_the_offsets_say():
    waveforms = [np.full(n, n, dtype=np.float32) for n in (5, 3, 9)]
    joined, offsets = join_utterances(waveforms, 100, (0.02, 0.08), np.random.default_rng(0))
    for waveform, offset in zip(waveforms, offsets):
        assert np.array_equal(joined[offset : offset + len(waveform)], waveform)
    silences = np.diff([0, *np.column_stack([offsets, offsets + [5, 3, 9]]).ravel(), len(joined)])[::2]
    assert all(2 <= silence <= 8 for silence in silences)
    assert np.count_nonzero(joined) == 17


def test_edges_may_have_another_silence():
    waveforms = [np.ones(10, dtype=np.float32)] * 2
    joined, offsets = join_utterances(waveforms, 100, (0.05, 0.05), np.random.default_rng(0), edge=(0, 0))
    assert offsets.tolist() == [0, 15] and len(joined) == 25


def test_lengths_of_strings_are_alike_often():
    strings = draw_strings(3000, (1, 3), (), np.random.default_rng(0))
    assert len(strings) == 3000
    counts = [sum(len(string) == length for string in strings) for length in (2, 4, 6)]
    assert sum(counts) == 3000
    assert min(counts) > 900


def test_strings_that_are_all_taken_are_refused():
    taken = [f"{number:02}" for number in range(100)]
    with pytest.raises(ValueError, match=r"all strings of 1 pair\(s\) are taken"):
        draw_strings(5, (1, 2), taken, np.random.default_rng(0))
    assert set(draw_strings(5, (1, 1), taken[1:], np.random.default_rng(0))) == {"00"}


def test_indices_are_read_as_ranges():
    assert parse_indices("--dev-indices", "0-2,7, 9") == {0, 1, 2, 7, 9}


def test_runs_as_a_command(fsdd, tmp_path):
    command = [sys.executable, PREP_DIGITS, "--fsdd", fsdd, "--out", tmp_path / "out", *SMALL]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (result.returncode, "12/12" in result.stderr) == (0, True)
    assert "hours of speech" in result.stdout


@pytest.mark.parametrize(
    "options, message",
    [
        (["--dev-indices", "0-1"], "--dev-indices and --test-indices overlap: both take index 0"),
        (["--train-indices", "0-3"], "--train-indices and --dev-indices overlap: both take index 1"),
        (["--dev-indices", "4-2"], "--dev-indices '4-2': expected indices like 0-4"),
        (["--dev-indices", "five"], "--dev-indices 'five': expected indices like 0-4"),
        (["--speakers", "carla"], "unknown speaker 'carla': the recordings are of anna bert"),
        (["--test-speakers", "anna", "carla"], "unknown speaker 'carla'"),
        (["--train-pairs", "3", "2"], "--train-pairs 3 2: expected 1 <= fewest <= most"),
        (["--dev-pairs", "0", "2"], "--dev-pairs 0 2: expected 1 <= fewest <= most"),
        (["--train-utterances", "0"], "--train-utterances: found 0, expected a whole number of 1 or more"),
        (["--seed", "-1"], "--seed: found -1, expected a whole number of 0 or more"),
        (
            ["--utterances-per-talk", "0"],
            "--utterances-per-talk: found 0, expected a whole number of 1 or more",
        ),
        (["--pause", "0.5", "0.1"], "--pause 0.5 0.1: expected 0 <= shortest <= longest"),
        (["--talk-pause", "-1", "1"], "--talk-pause -1 1: expected 0 <= shortest <= longest"),
        (["--talk-pause", "0", "nan"], "--talk-pause 0 nan: expected 0 <= shortest <= longest"),
        (["--level", "-20"], "--level -20: expected 0 dBFS or less, with --normalize peak or rms"),
        (["--normalize", "rms", "--level", "3"], "--level 3: expected 0 dBFS or less"),
        (["--trim-db", "0"], "--trim-db 0: expected more than 0 dB"),
        (["--test-indices", "8", "--dev-indices", "9", "--train-indices", "7"], "no split has a recording"),
    ],
)
def test_bad_options_are_refused_in_one_line(fsdd, tmp_path, run, options, message):
    status, printed, errors = run(fsdd, tmp_path / "out", *SMALL, *options)
    assert (status, printed) == (2, "")
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folder_without_recordings_is_refused(tmp_path, run):
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "no recordings in it"), ("nowhere", "no such folder")):
        status, _, errors = run(tmp_path / folder, tmp_path / "out")
        assert (status, errors.count("\n")) == (2, 1)
        assert f"--fsdd {tmp_path / folder}: {message}" in errors


def test_file_name_that_does_not_parse_is_refused(fsdd, tmp_path, run):
    soundfile.write(fsdd / "seven_anna_1.wav", np.ones(100), RATE)
    status, _, errors = run(fsdd, tmp_path / "out", *SMALL)
    assert status == 2
    assert f"error: {fsdd}/seven_anna_1.wav: expected a name like 7_george_12.wav" in errors


def test_speaker_who_lacks_a_digit_is_refused(fsdd, tmp_path, run):
    (fsdd / "7_bert_1.wav").unlink()
    status, _, errors = run(fsdd, tmp_path / "out", *SMALL)
    assert status == 2
    assert "dev: bert has no recording of seven with an index of this split" in errors


@pytest.mark.parametrize("content", [b"", b"not audio at all", None])
def test_unreadable_recording_is_named_and_nothing_is_left(fsdd, tmp_path, run, content):
    if content is None:
        soundfile.write(fsdd / "3_anna_2.wav", np.zeros(0), RATE)
    else:
        (fsdd / "3_anna_2.wav").write_bytes(content)
    status, _, errors = run(fsdd, tmp_path / "out", *SMALL)
    assert status == 2
    assert f"error: {fsdd}/3_anna_2.wav: " in errors
    assert errors.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_existing_corpus_is_replaced_only_when_asked(fsdd, tmp_path, run):
    run(fsdd, tmp_path / "out", *SMALL)
    before = read_split(tmp_path / "out", "dev")[0][3]
    status, _, errors = run(fsdd, tmp_path / "out", *SMALL, "--seed", 2)
    assert (status, "en-de already exists" in errors) == (2, True)
    assert read_split(tmp_path / "out", "dev")[0][3] == before
    assert run(fsdd, tmp_path / "out", *SMALL, "--seed", 2, "--overwrite")[0] == 0
    assert read_split(tmp_path / "out", "dev")[0][3] != before
