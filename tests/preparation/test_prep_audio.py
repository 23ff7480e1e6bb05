import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tones import write_tones

from fairseq_prune.data.waveform_manifest import read_waveform_manifest
from fairseq_prune.preparation.audio import main


@pytest.fixture
def run(capsys):
    """Runs prep_audio in this process; its exit status and errors."""

    def run(*words):
        status = main([str(word) for word in words])
        return status, capsys.readouterr().err

    return run


def test_a_share_of_the_files_is_held_out(run, tmp_path):
    names = write_tones(tmp_path / "audio", [3200] * 10)
    assert run("--audio", tmp_path / "audio", "--out", tmp_path / "out", "--valid-share", 0.2)[0] == 0
    train, valid = (read_waveform_manifest(tmp_path / "out" / f"{name}.tsv") for name in ("train", "valid"))
    assert sorted(train.paths + valid.paths) == sorted(names) and len(valid.paths) == 2
    assert set(train.samples) == {3200}


def test_lengths_are_those_at_16_khz_and_copies_have_them(run, tmp_path):
    write_tones(tmp_path / "audio", [4000], rate=8000)
    assert (
        run("--audio", tmp_path / "audio", "--out", tmp_path / "out", "--valid-share", 0, "--convert")[0] == 0
    )
    manifest = read_waveform_manifest(tmp_path / "out" / "train.tsv")
    info = soundfile.info(manifest.root / manifest.paths[0])
    assert (manifest.samples.tolist(), info.frames, info.samplerate) == ([8000], 8000, 16000)


def test_a_folder_may_be_held_out_whole(run, tmp_path):
    for name in ("one", "two"):
        write_tones(tmp_path / name, [3200, 1600])
    options = (
        "--audio",
        tmp_path / "one",
        "--valid-audio",
        tmp_path / "two",
        "--out",
        tmp_path / "out",
        "--convert",
    )
    assert run(*options)[0] == 0
    train, valid = (read_waveform_manifest(tmp_path / "out" / f"{name}.tsv") for name in ("train", "valid"))
    assert train.paths == valid.paths and train.root != valid.root


def test_librispeech_by_name(run, tmp_path):
    for part in ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other"):
        folder = tmp_path / "LibriSpeech" / part / "19" / "198"
        folder.mkdir(parents=True)
        soundfile.write(folder / f"19-198-{part}.flac", [0.0] * 800, 16000)
        (folder / "19-198.trans.txt").write_text("19-198-0000 A WORD\n")
    options = ("--librispeech", tmp_path / "LibriSpeech", "--out", tmp_path / "out", "--subsets")
    assert run(*options, "train100", "train960", "valid", "dev-clean")[0] == 0
    sizes = {path.stem: len(read_waveform_manifest(path).paths) for path in (tmp_path / "out").glob("*.tsv")}
    assert sizes == {"train100": 1, "train960": 3, "valid": 2, "dev-clean": 1}


def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path):
    write_tones(tmp_path / "audio", [800])
    (tmp_path / "audio" / "broken.wav").write_text("no audio")
    for words, message in (
        (("--audio", tmp_path / "nothing"), "no such folder"),
        (("--audio", tmp_path / "audio", "--extensions", "mp3"), "no file that ends in mp3"),
        (("--audio", tmp_path / "audio"), "broken.wav: expected an audio file"),
        (("--librispeech", tmp_path / "audio"), "train-clean-100: no such folder"),
    ):
        status, errors = run(*words, "--out", tmp_path / "out")
        assert status == 2 and message in errors and not (tmp_path / "out").exists()


def test_copies_of_one_name_are_refused(run, tmp_path):
    write_tones(tmp_path / "audio", [3200])
    name = next(path for path in (tmp_path / "audio").rglob("*") if path.is_file())
    name.with_suffix(".flac" if name.suffix == ".wav" else ".wav").write_bytes(name.read_bytes())
    status, error = run(
        "--audio", tmp_path / "audio", "--out", tmp_path / "out", "--valid-share", 0, "--convert"
    )
    assert status == 2 and "would both become" in error
    assert not (tmp_path / "out").exists()


def write_bad_audio(folder):
    """Five files that no one can train on; what is said of each."""
    (folder / "x.wav").write_text("no audio")
    (folder / "._a.wav").write_bytes(b"\0\5\26\7")
    os.mkfifo(folder / "pipe.wav")
    soundfile.write(folder / "silent.wav", np.zeros(800), 16000)
    soundfile.write(folder / "nan.wav", np.full(800, np.nan), 16000, subtype="FLOAT")
    soundfile.write(folder / "loud.wav", np.full(800, 9000.0), 16000, subtype="FLOAT")
    return {
        "x.wav": "not one",
        "._a.wav": "not one",
        "pipe.wav": "special file",
        "silent.wav": "digital silence",
        "nan.wav": "expected finite samples",
        "loud.wav": "a peak of 9,000",
    }


@pytest.mark.parametrize("convert", [(), ("--convert",)], ids=["in place", "converted"])
def test_skip_bad_leaves_bad_files_out_and_lists_them(run, tmp_path, convert):
    names = write_tones(tmp_path / "audio", [3200] * 3)
    problems = write_bad_audio(tmp_path / "audio")
    options = ("--audio", tmp_path / "audio", "--out", tmp_path / "out", "--valid-share", 0, *convert)
    assert run(*options)[0] == 2 and not (tmp_path / "out").exists()
    assert run(*options, "--skip-bad")[0] == 0
    kept = read_waveform_manifest(tmp_path / "out" / "train.tsv").paths
    assert [Path(path).stem for path in kept] == [Path(name).stem for name in sorted(names)]
    header, *rows = (tmp_path / "out" / "skipped.tsv").read_text().splitlines()
    listed = {Path(row.split("\t")[1].split(": ")[0]).name: row for row in rows}
    assert header == "split\tproblem" and sorted(listed) == sorted(problems)
    assert all(problem in listed[name] for name, problem in problems.items())


def test_silent_files_alone_are_a_warning(run, tmp_path, capsys):
    write_tones(tmp_path / "audio", [3200] * 2)
    soundfile.write(tmp_path / "audio" / "silent.wav", np.zeros(800), 16000)
    options = ["--audio", tmp_path / "audio", "--out", tmp_path / "out", "--valid-share", "0"]
    assert main(list(map(str, options))) == 0
    printed = capsys.readouterr().out
    assert "warning" in printed and "silent.wav: digital silence" in printed
    assert len(read_waveform_manifest(tmp_path / "out" / "train.tsv").paths) == 3


def test_headers_only_believes_the_headers(run, tmp_path):
    write_tones(tmp_path / "audio", [3200])
    soundfile.write(tmp_path / "audio" / "nan.wav", np.full(800, np.nan), 16000, subtype="FLOAT")
    options = ("--audio", tmp_path / "audio", "--valid-share", 0, "--headers-only", "--out", tmp_path / "out")
    assert run(*options)[0] == 0
