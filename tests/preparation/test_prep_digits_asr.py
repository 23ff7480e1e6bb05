"""prep_digits.py --task asr: letters and audio, as of LibriSpeech."""

import numpy as np
import pytest
import soundfile

from fairseq_prune.data.labelled_audio import read_split, words
from fairseq_prune.preparation.digits import main
from fairseq_prune.preparation.synthesis.german_numbers import ENGLISH_DIGITS
from fairseq_prune.text.dictionaries import read_dictionary

RATE = 8000
SMALL = ["--test-indices", "0", "--dev-indices", "1", "--train-utterances", "12", "--dev-utterances", "3"]
SMALL += ["--test-utterances", "4", "--pause", "0", "0"]


def length(digit, index):
    """Samples of a recording; they tell what was joined."""
    return 400 + 40 * digit + 4 * index


@pytest.fixture
def fsdd(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for speaker in ("anna", "bert"):
        for digit in range(10):
            for index in range(3):
                samples = np.full(length(digit, index), 0.1, dtype=np.float32)
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", samples, RATE)
    return folder


@pytest.fixture
def run(fsdd, tmp_path, capsys):
    def run(*options):
        words = ["--task", "asr", "--fsdd", fsdd, "--out", tmp_path / "out", *SMALL, *options]
        return main([str(word) for word in words]), capsys.readouterr()

    return run


def test_utterances_are_flac_at_16_khz_and_letters_are_their_digits(run, tmp_path):
    assert run()[0] == 0
    out = tmp_path / "out"
    known = set(read_dictionary(out / "dict.ltr.txt").symbols)
    indices = {"train": {2}, "dev": {1}, "test": {0}}
    for split, number in (("train", 12), ("dev", 3), ("test", 4)):
        audio, labels = read_split(out, split)
        assert len(labels) == number and audio.root == out / "audio"
        assert known.issuperset(" ".join(labels).split())
        assert (out / f"{split}.wrd").read_text().splitlines() == [words(text) for text in labels]
        for path, samples, text in zip(audio.paths, audio.samples, labels):
            info = soundfile.info(audio.root / path)
            assert (info.samplerate, info.frames, info.format) == (16000, samples, "FLAC")
            digits = [ENGLISH_DIGITS.index(word.lower()) for word in words(text).split()]
            assert 1 <= len(digits) <= 4
            (index,) = indices[split]
            assert samples == 2 * sum(length(digit, index) for digit in digits)


def test_equal_seeds_give_equal_corpora_and_speakers_take_turns(run, tmp_path):
    run("--seed", 3)
    first = {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*.*"))}
    run("--seed", 3, "--overwrite")
    assert first == {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*.*"))}
    names = [path.name[:4] for path in sorted((tmp_path / "out/audio/test").iterdir())]
    assert sorted(names) == ["anna", "anna", "bert", "bert"]


def test_lengths_and_rates_that_do_not_fit_are_refused(run, tmp_path):
    for options, message in (
        (["--train-digits", 3, 2], "--train-digits 3 2: expected 1 <= fewest <= most"),
        (["--sample-rate", 8000], "--sample-rate 8000: fairseq's task audio_finetuning expects 16000"),
    ):
        status, output = run(*options)
        assert status == 2 and output.err == f"error: {message}\n"
    assert not (tmp_path / "out").exists()
