import subprocess
import sys
from pathlib import Path

import pytest
from fairseq.data import Dictionary, data_utils

from fairseq_prune.data.config import DataConfig, VocabularyFiles
from fairseq_prune.data.manifest import Utterance, write_manifest
from fairseq_prune.preparation.mt import main
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

PREP_MT = Path(__file__).resolve().parents[2] / "data_prep" / "prep_mt.py"

TEXTS = {
    "train": [("the red house", "das rote Haus"), ("a green tree", "ein grüner Baum"), ("Ω", "ein Haus")],
    "dev": [("the tree", "der Baum")],
    "tst-COMMON": [("a house", "ein Haus"), ("the green house", "das grüne Haus")],
    "tst-HE": [("a red tree", "ein roter Baum")],
}


def write_data(folder, joint=False, texts=TEXTS):
    """A data directory without audio: prep_mt reads the texts and the vocabularies only."""
    folder.mkdir()
    for split, pairs in texts.items():
        rows = [
            Utterance(f"{split}_{index}", "x.wav", 0, 1600, source, target, "spk")
            for index, (source, target) in enumerate(pairs)
        ]
        write_manifest(folder / f"{split}.tsv", rows)
    # the capital omega is in no vocabulary
    sources = [source for source, _ in TEXTS["train"][:2]]
    targets = [target for _, target in TEXTS["train"]]
    if joint:
        SentencePieceVocabulary.train(sources + targets, model_type="char").save(
            folder / "spm.model", folder / "dict.txt"
        )
        files = dict.fromkeys(("target", "source"), VocabularyFiles("spm.model", "dict.txt"))
    else:
        files = {}
        for name, side in (("source", sources), ("target", targets)):
            files[name] = VocabularyFiles(f"spm_{name}.model", f"dict_{name}.txt")
            vocabulary = SentencePieceVocabulary.train(side, model_type="char")
            vocabulary.save(folder / files[name].sentencepiece, folder / files[name].dictionary)
    DataConfig("/nowhere", files).save(folder)
    return folder


@pytest.fixture
def run_prep_mt(capsys):
    """Runs prep_mt in this process; returns its exit status, what it printed, and its errors."""

    def run(data, out, *options):
        try:
            status = main(["--data-dir", str(data), "--out", str(out), *options])
        except SystemExit as exit:
            status = exit.code
        return (status, *capsys.readouterr())

    return run


def read_back(out, name, language, pair):
    """The sentences of a binary split, through fairseq's own reader and dictionary."""
    dictionary = Dictionary.load(str(out / f"dict.{language}.txt"))
    dataset = data_utils.load_indexed_dataset(str(out / f"{name}.{pair}.{language}"), dictionary)
    assert all(dataset[index][-1] == dictionary.eos() for index in range(len(dataset)))
    return [dictionary.string(dataset[index], "sentencepiece") for index in range(len(dataset))]


def test_texts_come_back_through_fairseq(tmp_path):
    data, out = write_data(tmp_path / "data"), tmp_path / "bin"
    languages = ["--source-lang", "en", "--target-lang", "de"]
    subprocess.run([sys.executable, PREP_MT, "--data-dir", data, "--out", out, *languages], check=True)
    for split, name in (("train", "train"), ("dev", "valid"), ("tst-COMMON", "test"), ("tst-HE", "test1")):
        sources = [source.replace("Ω", "<unk>") for source, _ in TEXTS[split]]
        assert read_back(out, name, "en", "en-de") == sources
        assert read_back(out, name, "de", "en-de") == [target for _, target in TEXTS[split]]


def test_report_counts_sentences_and_unknown_tokens(tmp_path, run_prep_mt):
    _, report, _ = run_prep_mt(write_data(tmp_path / "data"), tmp_path / "bin")
    train = next(line for line in report.splitlines() if line.startswith("train"))
    characters = [len(source) + 2 for source, _ in TEXTS["train"]]  # with the leading space and the end
    assert train.split()[:4] == ["train", "train", "3", "0"]
    assert f"src {sum(characters)}, {1 / sum(characters):.2%}, {max(characters)};" in train


def test_joint_vocabulary_gives_equal_dictionaries(tmp_path, run_prep_mt):
    data, out = write_data(tmp_path / "data", joint=True), tmp_path / "bin"
    _, report, _ = run_prep_mt(data, out)
    assert "vocabularies: one of" in report
    assert (out / "dict.src.txt").read_text() == (out / "dict.tgt.txt").read_text()
    assert (out / "dict.src.txt").read_text() == (data / "dict.txt").read_text()


def test_row_without_transcript_stops_unless_bad_rows_are_skipped(tmp_path, run_prep_mt):
    texts = {"train": [*TEXTS["train"], ("", "ein Baum")]}
    data, out = write_data(tmp_path / "data", texts=texts), tmp_path / "bin"
    status, _, errors = run_prep_mt(data, out)
    assert status == 2
    assert f"error: {data}/train.tsv, line 5: src_text of 'train_3' is empty" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert run_prep_mt(data, out, "--skip-bad")[0] == 0
    assert len(read_back(out, "train", "tgt", "src-tgt")) == 3


def test_existing_output_is_replaced_only_when_asked(tmp_path, run_prep_mt):
    data, out = write_data(tmp_path / "data"), tmp_path / "bin"
    assert run_prep_mt(data, out, "--splits", "train")[0] == 0
    status, _, errors = run_prep_mt(data, out)
    assert (status, "already exists" in errors) == (2, True)
    assert not (out / "test.src-tgt.src.bin").exists()
    assert run_prep_mt(data, out, "--overwrite")[0] == 0
    assert (out / "test.src-tgt.src.bin").exists()


@pytest.mark.parametrize("code", ["en-US", "e.n"])
def test_language_codes_that_fairseq_would_take_apart_are_refused(tmp_path, run_prep_mt, code):
    status, _, errors = run_prep_mt(tmp_path, tmp_path / "bin", "--source-lang", code)
    assert status == 2
    assert f"without dot, dash, slash and space, found '{code}'" in errors


def test_data_without_source_vocabulary_is_refused(tmp_path, run_prep_mt):
    data = write_data(tmp_path / "data")
    config = DataConfig.load(data)
    DataConfig("/nowhere", {"target": config.vocabularies["target"]}).save(data)
    status, _, errors = run_prep_mt(data, tmp_path / "bin")
    assert status == 2
    assert "needs a source vocabulary" in errors
