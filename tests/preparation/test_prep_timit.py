from pathlib import Path

import numpy as np
import pytest
import soundfile

from fairseq_prune.data.labelled_audio import read_split
from fairseq_prune.data.manifest import check_audio, read_manifest
from fairseq_prune.preparation.layouts import timit as timit_layout
from fairseq_prune.preparation.layouts.timit import CORE_TEST, DEVELOPMENT, SIZES
from fairseq_prune.preparation.timit import main
from fairseq_prune.text.dictionaries import read_dictionary

SAMPLES = 3200
SPEAKERS = {"train": "fcjf0 mjwt0", "dev": "faks0", "test": "felc0", None: "mccs0"}
FOLDERS = {"train": "train", "dev": "test", "test": "test", None: "test"}


def sphere(samples):
    """A file as on the LDC's disc: a NIST SPHERE header of 1,024 bytes, then 16-bit samples."""
    fields = {
        "database_id": "TIMIT",
        "utterance_id": "cjf0_si1027",
        "channel_count": 1,
        "sample_count": len(samples),
        "sample_rate": 16000,
        "sample_n_bytes": 2,
        "sample_byte_format": "01",
        "sample_sig_bits": 16,
    }
    kinds = {name: "-i" if isinstance(value, int) else f"-s{len(value)}" for name, value in fields.items()}
    lines = ["NIST_1A", "   1024", *(f"{name} {kinds[name]} {value}" for name, value in fields.items())]
    return "\n".join([*lines, "end_head", ""]).encode().ljust(1024) + samples.astype("<i2").tobytes()


def write_sentence(folder, name, audio=".wav", ending=str.lower):
    folder.mkdir(parents=True, exist_ok=True)
    wave = np.round(9000 * np.sin(np.arange(SAMPLES) * 0.1))
    (folder / ending(f"{name}.phn")).write_text(
        "0 800 h#\n800 1600 ix\n1600 2000 q\n2000 2400 tcl\n2400 3200 zh\n"
    )
    for each in audio.split():
        if each == ".WAV":
            (folder / f"{name.upper()}.WAV").write_bytes(sphere(wave))
        else:
            soundfile.write(folder / f"{ending(name)}{each}", wave.astype(np.int16), 16000, format="WAV")


def write_tree(root, ending=str.lower, audio=".wav"):
    """Speakers of all splits, and one of none, in the LDC's tree."""
    for split, speakers in SPEAKERS.items():
        for speaker in speakers.split():
            folder = root / ending(f"{FOLDERS[split]}/dr1/{speaker}")
            for name in ("sa1", "si1027", "sx37"):
                write_sentence(folder, name, audio, ending)


def write_flat(root):
    """All in one folder, as some re-packings have it."""
    for split, speakers in SPEAKERS.items():
        for speaker in speakers.split():
            for name in ("sa1", "si1027", "sx37"):
                write_sentence(root, f"{FOLDERS[split]}_dr1_{speaker}_{name}")


LAYOUTS = {
    "the LDC's": lambda root: write_tree(root, str.upper, ".WAV"),
    "lower case": lambda root: write_tree(root, str.lower),
    "RIFF copies beside": lambda root: write_tree(root / "data", str.upper, ".WAV .WAV.wav"),
    "flat": write_flat,
}


@pytest.fixture
def run(tmp_path, capsys):
    """Runs prep_timit; exit status, what it printed, and its errors."""

    def run(*words):
        status = main(["--root", str(tmp_path / "TIMIT"), "--out", str(tmp_path / "out"), *map(str, words)])
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_packing_gives_the_same_splits(layout, run, tmp_path):
    LAYOUTS[layout](tmp_path / "TIMIT")
    status, _, errors = run("--incomplete")
    assert status == 0, errors
    for split, speakers in (("train", 2), ("dev", 1), ("test", 1)):
        audio, labels = read_split(tmp_path / "out", split, "phn")
        assert labels == ["sil ih sil sh"] * 2 * speakers
        assert audio.samples.tolist() == [SAMPLES] * 2 * speakers
        for path in audio.paths:
            assert any(speaker in path.lower() for speaker in SPEAKERS[split].split())
            # as fairseq's dataset reads it
            wave, rate = soundfile.read(audio.root / path, dtype="int16")
            assert rate == 16000 and wave[1] == 899
    assert len(read_dictionary(tmp_path / "out/dict.phn.txt")) == 4 + 39


def test_riff_copies_come_before_sphere_files(run, tmp_path):
    LAYOUTS["RIFF copies beside"](tmp_path / "TIMIT")
    run("--incomplete")
    audio = read_split(tmp_path / "out", "test", "phn").audio
    assert [Path(path).name for path in audio.paths] == ["SI1027.WAV.wav", "SX37.WAV.wav"]


@pytest.mark.parametrize("classes, expected", [(61, "h# ix q tcl zh"), (48, "sil ix cl zh")])
def test_training_may_have_more_classes(classes, expected, run, tmp_path):
    write_tree(tmp_path / "TIMIT")
    assert run("--incomplete", "--phones", classes)[0] == 0
    assert read_split(tmp_path / "out", "dev", "phn").labels[0] == expected
    assert len(read_dictionary(tmp_path / "out/dict.phn.txt")) == 4 + classes


def test_converted_copies_are_flac(run, tmp_path):
    write_tree(tmp_path / "TIMIT", str.upper, ".WAV")
    assert run("--incomplete", "--convert")[0] == 0
    audio = read_split(tmp_path / "out", "test", "phn").audio
    assert {soundfile.info(audio.root / path).format for path in audio.paths} == {"FLAC"}


@pytest.mark.parametrize("convert", [[], ["--convert"]])
def test_manifests_have_the_phones_as_target_text(convert, run, tmp_path):
    write_tree(tmp_path / "TIMIT", str.upper, ".WAV")
    assert run("--incomplete", "--manifest", *convert)[0] == 0
    rows = read_manifest(tmp_path / "out" / "train.tsv")
    check_audio(rows, tmp_path / "out")
    assert [row.id for row in rows] == ["fcjf0-si1027", "fcjf0-sx37", "mjwt0-si1027", "mjwt0-sx37"]
    assert {(row.tgt_text, row.n_frames) for row in rows} == {("sil ih sil sh", SAMPLES)}
    written = {path.name for path in (tmp_path / "out").glob("*.*")}
    assert written == {"train.tsv", "dev.tsv", "test.tsv"}


def test_the_speakers_are_the_standard_ones():
    assert (len(CORE_TEST), len(DEVELOPMENT)) == (SIZES["test"][0], SIZES["dev"][0]) == (24, 50)
    assert not CORE_TEST & DEVELOPMENT
    women = sum(speaker.startswith("f") for speaker in CORE_TEST)
    assert women == 8  # one of each dialect region; two men of each


def test_a_part_of_the_corpus_is_refused(run, tmp_path):
    write_tree(tmp_path / "TIMIT")
    status, _, errors = run()
    assert status == 2 and not (tmp_path / "out").exists()
    assert errors == (
        "error: train: found 4 sentences of 2 speakers, expected 3,696 of 462; --incomplete takes what there is\n"
    )


def test_the_whole_corpus_is_taken(run, tmp_path, monkeypatch):
    write_tree(tmp_path / "TIMIT")
    sizes = {"train": (2, 4), "dev": (1, 2), "test": (1, 2)}
    monkeypatch.setitem(timit_layout.SIZES, "train", sizes["train"])
    monkeypatch.setitem(timit_layout.SIZES, "dev", sizes["dev"])
    monkeypatch.setitem(timit_layout.SIZES, "test", sizes["test"])
    assert run()[0] == 0


def no_audio(folder):
    (folder / "si1027.wav").unlink()


def no_phone(folder):
    (folder / "si1027.phn").write_text("0 800 h#\n800 1600 xx\n")


def no_times(folder):
    (folder / "si1027.phn").write_text("h#\n")


def shortened(folder):
    (folder / "si1027.wav").write_bytes(
        b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n"
    )


BAD = {
    no_audio: "si1027.phn: no audio of this sentence beside it",
    no_phone: "si1027.phn: 'xx' is no phone of TIMIT",
    no_times: "si1027.phn, line 1: expected two sample numbers and a phone, found 'h#'",
    shortened: "si1027.wav: expected an audio file",
}


@pytest.mark.parametrize("spoil", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(spoil, run, tmp_path):
    write_tree(tmp_path / "TIMIT")
    spoil(tmp_path / "TIMIT/train/dr1/fcjf0")
    status, _, errors = run("--incomplete")
    assert status == 2 and errors.splitlines()[-1].startswith("error: ") and BAD[spoil] in errors
    assert not (tmp_path / "out").exists()
