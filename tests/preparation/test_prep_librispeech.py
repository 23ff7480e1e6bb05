import numpy as np
import pytest
import soundfile

from fairseq_prune.data.labelled_audio import ENGLISH_LETTERS, read_split
from fairseq_prune.preparation.librispeech import main
from fairseq_prune.text.dictionaries import read_dictionary

TEXTS = ("AN OAK", "IT ISN'T")


def write_chapter(folder, speaker, texts=TEXTS, rate=16000, samples=3200, ending="flac"):
    """A chapter in LibriSpeech's layout; utterance n has 160 samples more than n - 1."""
    chapter = folder / str(speaker) / "7"
    chapter.mkdir(parents=True)
    lines = []
    for number, text in enumerate(texts):
        name = f"{speaker}-7-{number:04d}"
        wave = 0.1 * np.sin(np.arange(samples + 160 * number) * 0.1)
        soundfile.write(chapter / f"{name}.{ending}", wave, rate)
        lines.append(f"{name} {text}\n")
    (chapter / f"{speaker}-7.trans.txt").write_text("".join(lines))
    return chapter


@pytest.fixture
def run(tmp_path, capsys):
    """Runs prep_librispeech into ``out``; exit status, what it printed, and its errors."""

    def run(*words):
        status = main([*map(str, words), "--out", str(tmp_path / "out")])
        return status, *capsys.readouterr()

    return run


def test_a_subset_becomes_a_split(run, tmp_path):
    root = tmp_path / "LibriSpeech"
    write_chapter(root / "train-clean-100", 19)
    write_chapter(root / "dev-other", 116, ["A"], ending="wav")
    status, report, errors = run("--root", root, "--subsets", "train-clean-100", "dev-other")
    assert status == 0, errors
    audio, labels = read_split(tmp_path / "out", "train_clean_100")
    assert audio.root == root and audio.samples.tolist() == [3200, 3360]
    assert audio.paths == ["train-clean-100/19/7/19-7-0000.flac", "train-clean-100/19/7/19-7-0001.flac"]
    assert labels == ["A N | O A K |", "I T | I S N ' T |"]
    assert (tmp_path / "out/train_clean_100.wrd").read_text() == "AN OAK\nIT ISN'T\n"
    assert read_split(tmp_path / "out", "dev_other").labels == ["A |"]
    assert read_dictionary(tmp_path / "out/dict.ltr.txt").symbols[4:] == list(ENGLISH_LETTERS)
    assert report.splitlines()[1].split() == ["train_clean_100", "0.00", "2", "4", "0.2", "to", "0.2"]


def test_libri_light_has_ten_minutes_in_an_hour_in_ten(run, tmp_path):
    light = tmp_path / "librispeech_finetuning"
    for part in range(6):
        write_chapter(light / "1h" / str(part) / "clean", 100 + part)
    for kind, speaker in (("clean", 200), ("other", 201)):
        write_chapter(light / "9h" / kind, speaker)
    status, _, errors = run("--libri-light", light, "--part", 2)
    assert status == 0, errors
    paths = {
        split: read_split(tmp_path / "out", split).audio.paths
        for split in ("train_10min", "train_1h", "train_10h")
    }
    assert [path.split("/")[:2] for path in paths["train_10min"]] == [["1h", "2"]] * 2
    assert len(paths["train_1h"]) == 12 and len(paths["train_10h"]) == 16
    assert set(paths["train_10min"]) < set(paths["train_1h"]) < set(paths["train_10h"])


def test_other_rates_are_converted_on_request_only(run, tmp_path):
    write_chapter(tmp_path / "corpus" / "train", 1, rate=8000, samples=1600)
    words = ["--root", tmp_path / "corpus", "--subsets", "train"]
    status, _, errors = run(*words)
    assert status == 2 and "8000 Hz, but fairseq wants 16000; give --convert" in errors
    assert not (tmp_path / "out").exists()
    assert run(*words, "--convert")[0] == 0
    audio = read_split(tmp_path / "out", "train").audio
    assert audio.root == tmp_path / "out/audio/train" and audio.samples.tolist() == [3200, 3520]
    assert [soundfile.info(audio.root / path).samplerate for path in audio.paths] == [16000] * 2


def test_letters_of_another_language_are_taken_from_the_corpus(run, tmp_path):
    write_chapter(tmp_path / "corpus" / "train", 1, ["schön", "so"])
    words = ["--root", tmp_path / "corpus", "--subsets", "train", "--upper"]
    status, _, errors = run(*words)
    assert status == 2 and "1-7-0000.flac: label 'Ö' is not in the dictionary, which lacks Ö" in errors
    assert run(*words, "--dict", "corpus")[0] == 0
    first = read_dictionary(tmp_path / "out/dict.ltr.txt")
    assert "".join(first.symbols[4:]) == "S|CHNOÖ"  # by frequency, then by name
    saved = tmp_path / "saved.txt"
    saved.write_bytes((tmp_path / "out/dict.ltr.txt").read_bytes())
    assert run(*words, "--dict", saved, "--overwrite")[0] == 0
    assert read_dictionary(tmp_path / "out/dict.ltr.txt").symbols == first.symbols


def spoil_transcript(chapter):
    (chapter / "1-7.trans.txt").write_text("1-7-0000\n")


def spoil_audio(chapter):
    (chapter / "1-7-0001.flac").unlink()
    soundfile.write(chapter / "1-7-0001.wav", np.zeros(0), 16000)


BAD = {
    "a line without text": (
        spoil_transcript,
        "1-7.trans.txt, line 1: expected an id and a text, found '1-7-0000'",
    ),
    "no samples": (spoil_audio, "1-7-0001.wav: expected audio, found a file of 0 samples"),
    "no audio": (lambda chapter: (chapter / "1-7-0001.flac").unlink(), "1-7-0001.flac: no such audio file"),
    "no transcript": (lambda chapter: (chapter / "1-7.trans.txt").unlink(), "no *.trans.txt below it"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, run, tmp_path):
    spoil, message = BAD[case]
    spoil(write_chapter(tmp_path / "corpus" / "train", 1))
    status, _, errors = run("--root", tmp_path / "corpus", "--subsets", "train")
    assert status == 2 and errors.splitlines()[-1].startswith("error: ") and message in errors
    assert not (tmp_path / "out").exists()
