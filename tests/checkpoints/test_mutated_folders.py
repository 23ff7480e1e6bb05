"""Folders of Hugging Face in which an entry of a JSON file is missing, or another: read, or refused in one line."""

import json

import pytest
import transformers
from hubert_files import HF_BASE
from small_whisper import huggingface_whisper, small_tokenizer

from fairseq_prune.checkpoints.hubert.reading import read_hubert
from fairseq_prune.checkpoints.whisper.importing import import_whisper
from fairseq_prune.text.byte_level_bpe import ByteLevelBPE

MISSING = object()
VALUES = [MISSING, None, -1, "text", [], {}, [[1]]]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    huggingface_whisper().save_pretrained(folder)
    (folder / "tokenizer.json").write_text(small_tokenizer().to_json())
    says = {"is_multilingual": True, "suppress_tokens": [1, 2], "alignment_heads": [[0, 1]]}
    (folder / "generation_config.json").write_text(json.dumps(says))
    return folder


@pytest.fixture(scope="module")
def hubert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hubert")
    transformers.HubertModel(transformers.HubertConfig(**HF_BASE)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    return folder


@pytest.mark.parametrize(
    ("kind", "file", "read"),
    [
        ("whisper", "config.json", import_whisper),
        ("whisper", "generation_config.json", import_whisper),
        ("whisper", "tokenizer.json", ByteLevelBPE.load),
        ("hubert", "config.json", read_hubert),
        ("hubert", "preprocessor_config.json", read_hubert),
    ],
)
def test_a_changed_entry_is_taken_or_refused_in_one_line(kind, file, read, request):
    folder = request.getfixturevalue(kind)
    whole, refused = (folder / file).read_text(), 0
    content = json.loads(whole)
    try:
        for name in content:
            for value in VALUES:
                changed = {**content, name: value}
                if value is MISSING:
                    del changed[name]
                (folder / file).write_text(json.dumps(changed))
                try:
                    read(folder)
                except (ValueError, OSError) as error:
                    assert str(folder) in str(error) and "\n" not in str(error), (name, value)
                    refused += 1
    finally:
        (folder / file).write_text(whole)
    assert refused > len(content) / 4
