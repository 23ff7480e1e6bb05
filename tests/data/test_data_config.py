"""config.yaml: a round trip, shared vocabularies, and one clear line for what is wrong."""

from pathlib import Path

import pytest
import yaml

from fairseq_prune.data.config import DataConfig, VocabularyFiles
from fairseq_prune.text.sentencepiece import SentencePieceVocabulary

TARGET = VocabularyFiles("spm.model", "dict.txt")
GOOD = {
    "audio_root": "../corpus",
    "sample_rate": 16000,
    "vocabularies": {"target": {"sentencepiece": "spm.model", "dictionary": "dict.txt"}},
}


def test_round_trip(tmp_path):
    config = DataConfig("/corpus", {"target": TARGET, "ctc": VocabularyFiles("c.model", "c.txt")})
    config.save(tmp_path)
    loaded = DataConfig.load(tmp_path)
    assert loaded == config
    assert list(loaded.vocabularies) == ["target", "ctc"]
    assert loaded.manifest("dev") == tmp_path / "dev.tsv"


def test_relative_audio_root_starts_at_the_data_directory(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(GOOD))
    assert DataConfig.load(tmp_path).audio_folder == tmp_path / "../corpus"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**GOOD, "audio_root": "/corpus"}))
    assert DataConfig.load(tmp_path).audio_folder == Path("/corpus")


def test_shared_files_are_loaded_as_one_vocabulary(tmp_path):
    SentencePieceVocabulary.train(["eins zwei"], model_type="char").save(
        tmp_path / "spm.model", tmp_path / "dict.txt"
    )
    DataConfig("/", {"target": TARGET, "source": TARGET}).save(tmp_path)
    vocabularies = DataConfig.load(tmp_path).load_vocabularies()
    assert vocabularies["target"] is vocabularies["source"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid yaml"),
        ("", "the file must map .* found None"),
        ({**GOOD, "audio_root": 3}, "audio_root must be a path, found 3"),
        ({**GOOD, "sample_rate": 8000}, "sample_rate must be 16000, found 8000"),
        ({**GOOD, "sample_rat": 1}, "unknown key 'sample_rat'"),
        ({**GOOD, "vocabularies": {}}, "vocabularies needs a target"),
        ({**GOOD, "vocabularies": ["a"]}, "vocabularies must map"),
        (
            {**GOOD, "vocabularies": {"target": {"dictionary": "d"}}},
            "vocabularies.target needs sentencepiece",
        ),
        ({**GOOD, "vocabularies": {**GOOD["vocabularies"], "src": {}}}, "vocabularies: unknown key 'src'"),
    ],
)
def test_bad_content_is_named(tmp_path, content, message):
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.yaml: .*{message}") as error:
        DataConfig.load(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_directory_and_missing_file_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such data directory"):
        DataConfig.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"config\.yaml: no such file"):
        DataConfig.load(tmp_path)
