"""A full disk and Ctrl-C: one line, nothing half-written under a final name, and a later run works."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq_prune.command_line import finish
from fairseq_prune.files import complete, complete_folder
from fairseq_prune.preparation import audio, audio_files
from fairseq_prune.preparation.processes import worker_processes

DATA_PREP = Path(__file__).resolve().parents[2] / "data_prep"


@pytest.fixture
def digits(tmp_path):
    """Recordings of all digits, of one speaker."""
    folder = tmp_path / "fsdd"
    folder.mkdir()
    random = np.random.default_rng(0)
    for digit in range(10):
        for index in (0, 5, 10):
            soundfile.write(folder / f"{digit}_ann_{index}.wav", random.uniform(-0.1, 0.1, 2000), 8000)
    return folder


def begin(command, *words, file_size=resource.RLIM_INFINITY):
    """Start a command of data_prep that may write files of so many bytes, and that hears Ctrl-C."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
        signal.signal(signal.SIGINT, signal.default_int_handler)

    return subprocess.Popen(
        [sys.executable, DATA_PREP / command, *map(str, words)],
        preexec_fn=limit,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_file_that_may_not_be_so_large_stops_digits(digits, tmp_path):
    words = ("--fsdd", digits, "--out", tmp_path / "out", "--train-utterances", 20)
    words += ("--dev-utterances", 1, "--test-utterances", 1)
    process = begin("prep_digits.py", *words, file_size=40_000)
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == 2 and "File too large" in errors and "Traceback" not in errors
    assert os.listdir(tmp_path / "out") == []
    process = begin("prep_digits.py", *words)
    process.communicate(timeout=100)
    assert process.returncode == 0


def test_a_file_that_may_not_be_so_large_stops_the_copies_of_audio(tmp_path):
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", np.random.default_rng(0).uniform(-1, 1, 16000), 16000)
    words = ("--audio", tmp_path / "audio", "--out", tmp_path / "out", "--valid-share", 0, "--convert")
    process = begin("prep_audio.py", *words, file_size=10_000)
    errors = process.communicate(timeout=100)[1]
    assert process.returncode == 2 and errors.rstrip().endswith(f"error: {tmp_path / 'out'}: File too large")
    assert os.listdir(tmp_path) == ["audio"]


def test_ctrl_c_is_one_line_and_leaves_nothing(digits, tmp_path):
    words = ("--fsdd", digits, "--out", tmp_path / "out", "--train-utterances", 10**6, "--task", "asr")
    process = begin("prep_digits.py", *words)
    until = time.monotonic() + 60
    while not list(tmp_path.glob(".out-unfinished-*")) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and errors.rstrip().endswith("interrupted") and "Traceback" not in errors
    assert os.listdir(tmp_path) == ["fsdd"]


def test_a_bad_file_ends_the_copying_before_the_folder_goes(tmp_path, monkeypatch, capsys):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_text("no audio")
    for name in "bcd":
        soundfile.write(tmp_path / "audio" / f"{name}.wav", np.full(2000, 0.1), 16000)

    def write_slowly(path, *_):
        time.sleep(0.3)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a copy")

    monkeypatch.setattr(audio_files, "write_audio", write_slowly)
    words = ("--audio", tmp_path / "audio", "--out", tmp_path / "out", "--valid-share", 0, "--convert")
    assert audio.main([*map(str, words), "--threads", "2"]) == 2
    assert "a.wav" in capsys.readouterr().err.splitlines()[-1]
    assert os.listdir(tmp_path) == ["audio"]


def interrupt(*_):
    raise KeyboardInterrupt


def test_an_interrupt_keeps_what_was_complete(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("complete")

    def prepare(args):
        with complete_folder(tmp_path / "out", overwrite=True) as folder:
            (folder / "new").write_text("half")
            interrupt()

    assert finish(prepare, None) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_an_interrupt_ends_worker_processes(tmp_path):
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), worker_processes(2) as pool:
        pool.submit(time.sleep, 60)
        interrupt()
    assert time.monotonic() - begun < 30


def test_a_file_is_replaced_when_the_new_one_is_complete(tmp_path):
    (tmp_path / "a").write_text("old")
    with complete(tmp_path / "a", overwrite=True) as path:
        path.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "new")]


def test_help_prints_nothing_else():
    process = begin("prep_mt.py", "--help")
    assert (process.communicate(timeout=100)[1], process.returncode) == ("", 0)


def test_every_file_beside_the_commands_is_a_command():
    for command in DATA_PREP.glob("*.py"):
        assert "enter(" in command.read_text() and os.access(command, os.X_OK), command
