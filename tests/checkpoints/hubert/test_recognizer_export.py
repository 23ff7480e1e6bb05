"""Recognisers with CTC for ONNX Runtime and transformers, held against fairseq's models."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig

from fairseq_prune.checkpoints.formats import formats_of
from fairseq_prune.checkpoints.hubert import recognizer as export
from fairseq_prune.checkpoints.runtime.hubert import OnnxRecognizer, OnnxTranslator
from fairseq_prune.inference.recognition import Recognizer

CHECKPOINT = Path(__file__).parents[1] / "of_5d3c2e6" / "recognition.pt"
ROOT = Path(__file__).parents[3]
LENGTHS = (16_000, 3000, 9001, 12_345)

pytestmark = pytest.mark.skipif(
    not hasattr(AudioFinetuningConfig, "multi_corpus_keys"), reason="the file is of fairseq-fixed"
)


@pytest.fixture(scope="module")
def recognizer():
    """With a head that gives every letter now and then."""
    found = Recognizer(str(CHECKPOINT))
    torch.manual_seed(0)
    head = found.model.w2v_encoder.proj
    torch.nn.init.normal_(head.weight, std=2)
    torch.nn.init.constant_(head.bias[1:4], -100)  # special symbols
    return found


@pytest.fixture(scope="module")
def folder(recognizer, tmp_path_factory):
    for library in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(library, reason="in the test extra of the current stack")
    out = tmp_path_factory.mktemp("recogniser") / "onnx"
    export.export_onnx(recognizer.model, recognizer.task, out, SimpleNamespace(int8=False))
    return out


def noise(samples):
    return 0.3 * torch.randn(samples, generator=torch.Generator().manual_seed(samples))


def texts_of(recognizer, waveforms):
    labels = recognizer.recognize([len(waveform) for waveform in waveforms], waveforms.__getitem__)
    return [recognizer.text(found) for found in labels]


def test_the_texts_are_those_of_fairseqs_model(recognizer, folder, engine):
    waveforms = [*map(noise, LENGTHS), torch.zeros(8000), torch.zeros(3)]
    runner, expected = OnnxRecognizer(folder, engine=engine), texts_of(recognizer, waveforms)
    assert [runner.text(waveform.numpy()) for waveform in waveforms] == expected
    assert len(set(expected)) == len(LENGTHS) + 1 and expected[-2:] == ["", ""]


def test_a_batch_gives_what_each_waveform_gives_alone(recognizer, folder, engine):
    runner, waveforms = OnnxRecognizer(folder, engine=engine), [noise(samples).numpy() for samples in LENGTHS]
    expected, frames = recognizer.log_probs([torch.from_numpy(waveform) for waveform in waveforms])
    found, counts = runner.log_probs(waveforms)
    assert counts.tolist() == frames
    for row, wanted, count in zip(found, expected, frames):
        np.testing.assert_allclose(row[:count], wanted[:count], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_8_bits_are_not_32(recognizer, folder, tmp_path):
    export.export_onnx(recognizer.model, recognizer.task, tmp_path / "int8", SimpleNamespace(int8=True))
    found, expected = (
        OnnxRecognizer(out).log_probs([noise(16_000).numpy()])[0] for out in (tmp_path / "int8", folder)
    )
    difference = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-5 < difference < export.INT8_TOLERANCE


def test_a_folder_of_another_kind_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"decoder.onnx: no such file, expected a folder of scripts"):
        OnnxTranslator(folder)
    with pytest.raises(FileNotFoundError, match=r"config.json: no such file"):
        OnnxRecognizer(tmp_path)


def test_transformers_writes_the_same_texts(recognizer, tmp_path):
    transformers = pytest.importorskip("transformers", reason="in the test extra of the current stack")
    out = tmp_path / "hf"
    formats_of("wav2vec_ctc_parp")["hf"].write(recognizer.model, recognizer.task, out, None)
    model = transformers.AutoModelForCTC.from_pretrained(out).eval()
    processor = transformers.AutoProcessor.from_pretrained(out)
    assert type(model).__name__ == "Wav2Vec2ForCTC" and model.config.pad_token_id == 0
    for samples in LENGTHS:
        values = processor(noise(samples).numpy(), sampling_rate=16_000, return_tensors="pt").input_values
        with torch.no_grad():
            found = processor.batch_decode(model(values).logits.argmax(-1))
        assert found == texts_of(recognizer, [noise(samples)])
    zeros = [float((w == 0).float().mean()) for n, w in model.named_parameters() if "q_proj.weight" in n]
    assert np.mean(zeros) > 0.3  # its weights are sparse there, too


def test_labels_that_are_no_letters_are_refused_by_transformers(recognizer, tmp_path):
    task = SimpleNamespace(target_dictionary=SimpleNamespace(symbols=["<s>", "<pad>", "</s>", "<unk>", "ih"]))
    with pytest.raises(
        ValueError, match=r"the format holds letters .*found labels \['ih'\]: use --format onnx"
    ):
        export.export_huggingface(recognizer.model, task, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_blank_with_a_score_of_its_own_is_refused(recognizer, tmp_path, monkeypatch):
    monkeypatch.setattr(recognizer.model, "blank_weight", 2.0)
    with pytest.raises(ValueError, match=r"blank_weight: found 2.0, the format holds 0"):
        export.export_onnx(recognizer.model, recognizer.task, tmp_path / "x", None)


def test_transcribe_runs_the_export(recognizer, folder, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(16_000).numpy(), 16_000, subtype="FLOAT")
    command = [sys.executable, ROOT / "scripts" / "transcribe.py", "--onnx", folder, tmp_path / "a.wav"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/a.wav\t{texts_of(recognizer, [noise(16_000)])[0]}\n"
