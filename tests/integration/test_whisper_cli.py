"""Whisper through the command lines: imported, generating under fairseq, exported, imported again."""

import base64
import json

import numpy as np
import pytest
import soundfile
import torch
import transformers
from command_lines import BIN, ROOT
from small_whisper import huggingface_whisper, small_tokenizer
from tokenizers import Tokenizer

from fairseq_prune.checkpoints.whisper.own import read_whisper
from fairseq_prune.data.manifest import Utterance, write_manifest

IMPORT, EXPORT = ROOT / "scripts/import_whisper.py", ROOT / "scripts/export.py"
TOKENIZER = small_tokenizer()
PREFIX = "<|startoftranscript|> <|de|> <|transcribe|> <|notimestamps|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Hugging Face folder `hf` of a multilingual model, a tokenizer of other size, recordings and their manifest."""
    folder = tmp_path_factory.mktemp("whisper")
    huggingface_whisper(end=0, max_source_positions=100).save_pretrained(folder / "hf")
    (folder / "hf/tokenizer.json").write_text(TOKENIZER.to_json())
    says = {"is_multilingual": True, "suppress_tokens": []}
    (folder / "hf/generation_config.json").write_text(json.dumps(says))
    (folder / "other.json").write_text(TOKENIZER.with_tokens(["[IN:A"]).to_json())
    (folder / "data").mkdir()
    rows = []
    for index, samples in enumerate((16_000, 24_000, 9_000)):
        clip = np.random.default_rng(index).normal(size=samples) * 0.1
        soundfile.write(folder / f"data/{index}.wav", clip, 16000)
        rows.append(
            Utterance(str(index), f"{index}.wav", 0, samples, "words", "what is the weather", "noise")
        )
    write_manifest(folder / "data/test.tsv", rows)
    return folder


@pytest.fixture(scope="module")
def imported(forks, folder):
    """What import_whisper.py wrote and said."""
    code, output, errors = forks.run(
        IMPORT, "--from", "hf", "--language", "de", "--out", "whisper.pt", cwd=folder
    )
    assert code == 0, errors
    return folder / "whisper.pt", output


@pytest.fixture(scope="module")
def exported(imported, forks, folder):
    """The Hugging Face folder that export.py wrote of the import."""
    code, _, errors = forks.run(
        EXPORT, "--checkpoint", "whisper.pt", "--format", "hf", "--out", "exported", cwd=folder
    )
    assert code == 0, errors
    return folder / "exported"


def texts_of_transformers(folder):
    """Greedy texts of the recordings."""
    model = transformers.WhisperForConditionalGeneration.from_pretrained(folder)
    processor = transformers.WhisperProcessor.from_pretrained(folder)
    texts = []
    for index in range(3):
        waveform, _ = soundfile.read(folder.parent / f"data/{index}.wav", dtype="float32")
        features = processor(waveform, sampling_rate=16000, return_tensors="pt").input_features
        found = model.generate(features, max_new_tokens=11, num_beams=1)
        texts.append(processor.tokenizer.decode(found[0], skip_special_tokens=True))
    return texts


def test_the_import_tells_what_it_found(imported):
    path, output = imported
    assert f"{len(TOKENIZER)} tokens, multilingual, set to de" in output
    assert read_whisper(path).task["suppress_tokens"] == "none"  # of the generation config


def test_generated_texts_are_those_that_transformers_generates_from_the_export(exported, forks, folder):
    options = "--gen-subset test --batch-size 3 --beam 1 --max-len-b 10 --path whisper.pt --user-dir".split()
    task = "--task spoken_language_understanding --cpu".split()
    code, output, errors = forks.run(
        BIN / "fairseq-generate", "data", *options, ROOT / "fairseq_prune", *task, cwd=folder
    )
    assert code == 0, errors
    assert f"generation begins with {PREFIX}; suppressed tokens: none" in output + errors
    lines = dict(line[2:].split("\t", 1) for line in output.splitlines() if line.startswith("D-"))
    found = [lines[str(index)].split("\t")[1] for index in range(3)]
    assert len(set(found)) > 1
    for text, expected in zip(found, texts_of_transformers(exported)):
        assert text and expected.startswith(text)


@pytest.mark.parametrize(
    ("flags", "prefix", "suppressed"),
    [
        ("--language en --spoken-task translate", "<|en|> <|translate|>", "none"),
        ("--suppress-tokens non_speech", "<|de|> <|transcribe|>", "non_speech"),
        ("--model-overrides {'spoken_task':'translate'}", "<|de|> <|translate|>", "none"),
    ],
)
def test_flags_and_overrides_change_what_the_import_has_set(
    imported, forks, folder, flags, prefix, suppressed
):
    options = (
        "--gen-subset test --batch-size 3 --beam 1 --max-len-b 1 --path whisper.pt --cpu --user-dir".split()
    )
    task = ["--task", "spoken_language_understanding", *flags.split()]
    code, output, errors = forks.run(
        BIN / "fairseq-generate", "data", *options, ROOT / "fairseq_prune", *task, cwd=folder
    )
    assert code == 0, errors
    expected = f"<|startoftranscript|> {prefix} <|notimestamps|>; suppressed tokens: {suppressed}"
    assert f"generation begins with {expected}" in output + errors


def test_an_export_imported_again_has_the_same_weights(imported, exported, forks, folder):
    code, _, errors = forks.run(
        IMPORT, "--from", exported, "--language", "de", "--out", "again.pt", cwd=folder
    )
    assert code == 0, errors
    first = read_whisper(imported[0])
    again = read_whisper(folder / "again.pt")
    assert (again.sizes, again.task) == (first.sizes, first.task)
    assert all(torch.equal(again.state_dict[name], value) for name, value in first.state_dict.items())
    same = [Tokenizer.from_str(text).get_vocab() for text in (again.tokenizer, first.tokenizer)]
    assert same[0] == same[1]


def test_bad_input_is_one_line(imported, forks, folder):
    (folder / "ranks.tiktoken").write_text(base64.b64encode(b"a").decode() + " 0\n")
    torch.save({"model": {}}, folder / "no_whisper.pt")
    rows = len(TOKENIZER)
    for arguments, message in (
        (
            "--from hf --tokenizer other.json",
            f"embeddings of {rows} tokens, but other.json has {rows + 1} tokens",
        ),
        ("--from hf --tokenizer ranks.tiktoken", "ranks.tiktoken: expected a token in base64"),
        ("--from hf --tokenizer missing.json", "missing.json: no such tokenizer"),
        ("--from hf --language french", "'french': no such language, expected one of the codes en, de"),
        ("--from hf --language auto", "'auto': no such language, expected one of the codes en, de"),
        ("--from nowhere", "nowhere: no such checkpoint"),
        ("--from no_whisper.pt", "expected OpenAI's Whisper"),
        ("--from data", "data/config.json: no such file, expected a folder of Hugging Face"),
        ("--from hf --out whisper.pt", "whisper.pt already exists"),
    ):
        code, _, errors = forks.run(IMPORT, "--out", "bad.pt", *arguments.split(), cwd=folder)
        assert code == 2 and errors.startswith("error: ") and len(errors.splitlines()) == 1, errors
        assert message in errors
    assert not (folder / "bad.pt").exists()
