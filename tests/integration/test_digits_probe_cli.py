"""examples/dphubert/probe.py: what a linear probe tells by the frozen features of students."""

import numpy as np
import pytest
import soundfile
from command_lines import ROOT
from tones import write_hubert

RATE, LENGTH = 16000, 8000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two speakers, who say two digits as tones: loud at the beginning or at the end. The voice is the pitch."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "fsdd").mkdir()
    rng, time = np.random.default_rng(0), np.arange(LENGTH) / RATE
    for speaker, pitch in (("ann", 300), ("bob", 1500)):
        for digit in (0, 1):
            for index in range(12):
                loud = np.linspace(1, 0.1, LENGTH)[:: 1 if digit else -1]
                tone = loud * np.sin(2 * np.pi * pitch * time) + 0.01 * rng.standard_normal(LENGTH)
                soundfile.write(folder / "fsdd" / f"{digit}_{speaker}_{index}.wav", 0.5 * tone, RATE)
    write_hubert(folder / "teacher.pt")
    return folder


@pytest.fixture
def probe(forks, folder):
    def call(*words, held_out="0-5", out="out"):
        script = ROOT / "examples" / "dphubert" / "probe.py"
        models = ("teacher=teacher.pt", "student=teacher.pt,teacher.pt")
        return forks.run(
            *(script, "--fsdd", "fsdd", "--held-out", held_out, "--out", out, "--models", *models, *words),
            cwd=folder,
        )

    return call


def cells(output, name):
    """Of a model's rows: of digits and of speakers."""
    return [line.split(" | ") for line in output.splitlines() if line.startswith(f"| {name} |")]


def test_digits_and_speakers_that_the_features_hold_are_told(probe, folder):
    status, output, errors = probe("--against", "teacher")
    assert status == 0, errors
    assert "24 recordings to train on, 24 to test" in output
    for row in cells(output, "student"):
        assert row[2] == "0.00 (0.00 to 0.00)" and row[3] == "0.0, 0.0", row
        assert row[4].startswith("+0.00 (+0.00 to +0.00)"), row
    assert len(cells(output, "student")) == 2
    with np.load(folder / "out" / "student.npz") as kept:
        assert kept["digit"].shape == kept["speaker"].shape == (2, 24)


def test_what_is_kept_is_not_made_again(probe, folder):
    assert probe("--against", "teacher", out="kept")[0] == 0
    wrong = np.ones((2, 24), dtype=bool)
    np.savez(folder / "kept" / "student.npz", digit=wrong, speaker=~wrong)
    status, output, errors = probe("--against", "teacher", out="kept")
    assert status == 0, errors
    digits, speakers = cells(output, "student")
    assert digits[2] == "100.00 (100.00 to 100.00)" and digits[4].startswith("+100.00")
    assert speakers[2] == "0.00 (0.00 to 0.00)"


@pytest.mark.parametrize(
    "words, held_out, message",
    [
        (("--against", "other"), "0-5", "--against: found 'other', expected one of teacher, student"),
        (("--against", "teacher"), "20-30", "--held-out: found 20-30, expected some of the recordings"),
        (("--against", "teacher"), "0-30", "--held-out: found 0-30, expected some of the recordings"),
    ],
)
def test_bad_input_is_one_line(probe, words, held_out, message):
    status, _, errors = probe(*words, held_out=held_out, out="none")
    assert status == 2 and message in errors.splitlines()[-1], errors
