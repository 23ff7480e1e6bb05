"""Configurations that are small files and large in memory, or that no parser likes: one line, at once."""

import json
import time

import pytest

from fairseq_prune.checkpoints.huggingface_folder import read_json
from fairseq_prune.data.config import DataConfig

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
YAML = {
    "aliases": BOMB + "audio_root: *a11\n",
    "aliases as vocabularies": BOMB.replace("a0: ", "audio_root: ") + "vocabularies: *a11\n",
    "only aliases": f"audio_root: {{{BOMB.splitlines()[0][4:]}}}\n",
    "a date that is none": "audio_root: 2026-13-45\n",
    "a date": "audio_root: 2026-11-27\nvocabularies: {}\n",
    "brackets": "audio_root: " + "[" * 5000,
    "itself": "audio_root: &a [*a]\nvocabularies: {}\n",
    "no text": "\0",
}


@pytest.mark.parametrize("case", YAML)
def test_a_data_directory_is_refused_in_a_line(case, tmp_path):
    (tmp_path / "config.yaml").write_text(YAML[case])
    start = time.time()
    with pytest.raises(ValueError, match=r"config\.yaml") as error:
        DataConfig.load(tmp_path)
    assert time.time() - start < 5 and len(str(error.value)) < 1000 and "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[" * 100_000, json.dumps({"num_hidden_layers": 10**7})])
def test_a_model_is_refused_in_a_line(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        read_json(tmp_path / "config.json")
