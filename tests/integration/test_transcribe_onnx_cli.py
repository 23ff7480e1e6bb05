"""transcribe.py with an export for ONNX Runtime, of random weights."""

from types import SimpleNamespace

import pytest
import torch
from command_lines import ROOT
from whisper_files import TOKENIZER, write_checkpoint, write_recordings

from fairseq_prune.checkpoints.whisper.onnx import export_onnx
from fairseq_prune.data.audio import read_audio
from fairseq_prune.data.log_mel import log_mel
from fairseq_prune.data.pauses import cut_at_pauses
from fairseq_prune.inference.whisper.loading import WhisperPipeline
from fairseq_prune.modules.whisper.generation import WhisperGenerator

TRANSCRIBE = ROOT / "scripts" / "transcribe.py"
SECONDS = (0.9, 0.5, 3.1)  # the model takes 1.2


PREFIX = TOKENIZER.prefix("en")


def load(folder):
    """The model in torch, which takes every fourth frame of silence."""
    return WhisperPipeline(write_checkpoint(folder / "whisper.pt"), {"silence_stride": 4}).model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    for library in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(library, reason="in the test extra of the current stack")
    folder = tmp_path_factory.mktemp("onnx")
    write_recordings(folder / "audio", *SECONDS)
    cfg = SimpleNamespace(suppress_tokens="none")
    task = SimpleNamespace(tokenizer=TOKENIZER, prefix=PREFIX, cfg=cfg)
    export_onnx(load(folder), task, folder / "exported", SimpleNamespace(int8=False))
    return folder


def texts_of(model, waveform):
    """Greedy texts of a recording, cut at pauses."""
    longest = model.decoder.max_positions() - len(PREFIX)
    options = dict(beam_size=1, max_len_b=longest, min_len=0)
    generator, texts = WhisperGenerator([model], TOKENIZER.dictionary, PREFIX, **options), []
    for start, end in cut_at_pauses(waveform, 1.2):
        features = log_mel(waveform[start:end])
        sample = {"net_input": {"src_tokens": features[None], "src_lengths": torch.tensor([len(features)])}}
        tokens = generator.generate([model], sample)[0][0]["tokens"].tolist()
        texts.append(TOKENIZER.decode(tokens[:-1][:longest]).strip())
    return texts


def test_the_texts_are_those_of_the_model(forks, folder, tmp_path, engine):
    files = sorted((folder / "audio").glob("*.wav"))
    status, out, err = forks.run(
        TRANSCRIBE, "--onnx", folder / "exported", "--engine", engine, *files, cwd=tmp_path
    )
    assert status == 0, err
    texts = [texts_of(load(folder), read_audio(path)) for path in files]
    for path, parts in zip(files, texts):
        assert f"{path}\t{' '.join(parts).strip()}\n" in out
    assert len(texts[-1]) > 1 and all(any(parts) for parts in texts)
    words = ("--onnx", folder / "exported", files[0], "--format", "txt", "--out", "o")
    status, out, err = forks.run(TRANSCRIBE, *words, cwd=tmp_path)
    assert status == 0 and (tmp_path / "o" / "0.txt").read_text().split() == " ".join(texts[0]).split(), err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--beam", "5"),
            "--beam: found with --onnx, which writes as its export was told and takes --format",
        ),
        (("--device", "cuda"), "--device: found with --onnx"),
        (("--engine", "tflite"), "invalid choice: 'tflite' (choose from"),
        (("--format", "srt"), "--format: found srt with --onnx, expected txt: it knows no times"),
        (("--checkpoint", "whisper.pt"), "expected either --checkpoint or --onnx"),
        (("--onnx", "audio"), "config.json: no such file, expected a folder of scripts/export.py"),
        (("gone.wav",), "gone.wav: no such audio file"),
    ],
)
def test_what_an_export_cannot_do_is_one_line(forks, folder, words, message):
    status, out, err = forks.run(TRANSCRIBE, "--onnx", "exported", "audio/0.wav", *words, cwd=folder)
    assert status == 2 and out == "" and message in err and len(err.splitlines()) == 1
