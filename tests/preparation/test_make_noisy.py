"""Manifests in noise and rooms."""

import numpy as np
import pytest
import soundfile

from fairseq_prune.data.manifest import Utterance, check_audio, read_manifest, write_manifest
from fairseq_prune.preparation import noisy

PARSE = "[IN:order_drink [SL:size large ] ]"


@pytest.fixture
def data(tmp_path):
    """A manifest of two utterances with silence around them, and speech for babble."""
    rng, rows = np.random.default_rng(0), []
    for name in ("a", "b"):
        waveform = np.concatenate([np.zeros(16000), 0.1 * rng.standard_normal(8000), np.zeros(16000)])
        soundfile.write(tmp_path / f"{name}.flac", waveform, 16000)
        rows.append(Utterance(name, f"{name}.flac", 0, len(waveform), "", PARSE, f"speaker-{name}"))
    write_manifest(tmp_path / "test.tsv", rows)
    (tmp_path / "speech").mkdir()
    for number in range(4):
        soundfile.write(tmp_path / "speech" / f"{number}.wav", 0.1 * rng.standard_normal(4000), 16000)
    return tmp_path


def make(data, *options, out="out"):
    arguments = [data / "test.tsv", "--out", data / out, *options]
    assert noisy.main([str(argument) for argument in arguments]) == 0
    rows = read_manifest(data / out / "test.tsv")
    check_audio(rows, "/")
    return rows, [soundfile.read(row.audio, dtype="float32")[0] for row in rows]


def test_each_utterance_is_in_each_noise_at_each_ratio(data):
    rows, heard = make(data, "--each", "--snr", 6, 12, "--babble", data / "speech")
    conditions = [f"{noise}-{ratio}dB" for noise in ("pink", "babble") for ratio in (6, 9, 12)]
    assert [row.id for row in rows] == [f"{name}-{condition}" for name in "ab" for condition in conditions]
    assert {row.tgt_text for row in rows} == {PARSE}
    assert [row.speaker for row in rows] == ["speaker-a"] * 6 + ["speaker-b"] * 6
    levels = [20 * np.log10(waveform[:8000].std() / waveform[17000:23000].std()) for waveform in heard]
    assert levels[0] > levels[1] > levels[2] and levels[3] > levels[5]


def test_equal_seeds_give_equal_copies_and_others_do_not(data):
    options = ["--copies", 2, "--rooms", 0.5, "--babble", data / "speech"]
    rows, first = make(data, *options, out="first")
    assert len(rows) == 4
    _, again = make(data, *options, out="again")
    assert all(np.array_equal(*pair) for pair in zip(first, again))
    _, other = make(data, *options, "--seed", 2, out="other")
    assert not any(np.array_equal(*pair) for pair in zip(first, other))


def test_trim_alone_cuts_the_silence_and_changes_nothing_else(data):
    rows, heard = make(data, "--clean", 1, "--trim")
    whole = soundfile.read(data / "a.flac", dtype="float32")[0]
    assert 8000 <= rows[0].n_frames < 20000
    place = next(at for at in range(0, 16001) if np.array_equal(whole[at : at + 12000], heard[0][:12000]))
    assert place < 16000 < place + rows[0].n_frames


@pytest.mark.parametrize(
    "options, message",
    [
        (["--snr", "9", "6"], "--snr 9 6: expected MIN <= MAX"),
        (["--rooms", "1.5"], "--rooms 1.5: expected a share, from 0 to 1"),
        (["--babble", "nowhere"], "--babble nowhere: no such folder"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(data, capsys, options, message):
    assert noisy.main([str(data / "test.tsv"), "--out", str(data / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (data / "out").exists()


def test_an_id_in_two_manifests_is_an_error(data, capsys):
    write_manifest(data / "more.tsv", read_manifest(data / "test.tsv")[:1])
    manifests = [str(data / "test.tsv"), str(data / "more.tsv")]
    assert noisy.main([*manifests, "--out", str(data / "out")]) == 2
    assert "more.tsv: the id a is also in" in capsys.readouterr().err
