"""Speech translators for ONNX Runtime: the hypotheses are those of fairseq's generator."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from fairseq import checkpoint_utils
from fairseq.modules import SinusoidalPositionalEmbedding
from mustc_corpus import WORDS, tone
from small_speech_model import SAMPLES, make_model, speech

from fairseq_prune.checkpoints.hubert import translator as export
from fairseq_prune.checkpoints.hubert.onnx import frames_config
from fairseq_prune.checkpoints.runtime.hubert import OnnxTranslator, frame_plan
from fairseq_prune.inference.translation import Translator

ROOT = Path(__file__).parents[3]
CHECKPOINT = str(Path(__file__).parents[1] / "of_5d3c2e6" / "translation.pt")
OVERRIDES = {"token_keep_ratio": 0.7}


def model_and_task(**changes):
    """As scripts/export.py loads them: a translator's own model is made fast, and holds no plain layers any more."""
    [model], _, task = checkpoint_utils.load_model_ensemble_and_task([CHECKPOINT], {**OVERRIDES, **changes})
    return model.eval(), task


@pytest.fixture(scope="module")
def waveforms():
    """Strings of tones, as the model has learned from; the last two hold none."""
    rng = np.random.default_rng(3)
    texts = [rng.choice(list(WORDS), count) for count in (2, 3, 4, 5, 3)]
    spoken = [np.concatenate([tone(word) for word in text]).astype(np.float32).repeat(2) for text in texts]
    return [*map(torch.from_numpy, spoken), torch.zeros(16_000), torch.zeros(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    for library in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(library, reason="in the test extra of the current stack")
    out = tmp_path_factory.mktemp("translator") / "onnx"
    export.export_onnx(*model_and_task(), out, SimpleNamespace(int8=False))
    return out


@pytest.mark.parametrize(("beam", "max_tokens"), [(1, 20), (3, 20), (5, 200), (30, 4)])
def test_the_hypotheses_are_those_of_the_model(beam, max_tokens, folder, waveforms, engine):
    translator = Translator(CHECKPOINT, OVERRIDES, beam=beam, max_tokens=max_tokens)
    runner, expected = OnnxTranslator(folder, engine=engine), translator.translate(waveforms)
    found = [runner.text(waveform.numpy(), beam=beam, max_tokens=max_tokens) for waveform in waveforms]
    assert found == expected and len(set(expected)) > 3 and expected[-2:] == ["", ""]


def test_translate_runs_the_export(folder, waveforms, tmp_path, engine):
    soundfile.write(tmp_path / "a.wav", waveforms[3].numpy(), 16_000, subtype="FLOAT")

    def translate(*words):
        command = [sys.executable, ROOT / "scripts" / "translate.py", tmp_path / "a.wav", *words]
        return subprocess.run(command, capture_output=True, text=True)

    done = translate("--onnx", folder, "--engine", engine, "--threads", "1", "--max-seconds", "30")
    expected = Translator(CHECKPOINT, OVERRIDES).translate(waveforms[3:4])[0]
    assert done.returncode == 0 and done.stdout == f"{tmp_path}/a.wav\t{expected}\n", done.stderr
    done = translate("--onnx", folder, "--fp16")
    assert done.returncode == 2 and "--fp16: found with --onnx, expected with --checkpoint" in done.stderr
    done = translate("--checkpoint", CHECKPOINT, "--engine", engine)
    assert done.returncode == 2 and "--engine: found with --checkpoint, expected with --onnx" in done.stderr


def test_the_export_is_compared_on_a_split(folder, prepared_data):
    words = ("--checkpoint", CHECKPOINT, "--onnx", folder, "--data", prepared_data, "--max-utterances", "3")
    command = [
        sys.executable,
        ROOT / "scripts" / "compare_exports.py",
        *words,
        "--repeats",
        "1",
        "--beam",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line
    ]
    system = f"{folder}, onnxruntime"
    assert [row[0] for row in rows[2:]] == ["checkpoint, one by one", "checkpoint, 8 at a time", system]
    assert rows[2][1] == rows[3][1] == "100.0" and rows[2][4].startswith("1.00 ")
    assert all(float(row[3]) > 0 and 0 <= float(row[1]) <= 100 for row in rows[2:])


def test_the_positions_are_those_of_fairseq():
    positions = torch.tensor([[0, 3, 70]])
    table = SinusoidalPositionalEmbedding.get_embedding(100, 33)
    torch.testing.assert_close(export.sinusoids(positions, 33), table[positions])


def decoder_of(**options):
    """A translator of random weights, and its runtime's graph of a token."""
    model = make_model(**options)
    for parameter in model.decoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model, export.TokenDecoder(model.decoder), export.MemoryEncoder(model.encoder, model.decoder)


@pytest.mark.parametrize(
    "options",
    [
        {"deltalm_norm": "post", "adaptor_kernels": "3,3", "memory_positions": "none"},
        {"deltalm_no_layernorm_embedding": True, "token_keep_ratios": "0.5,0.8"},
        {"deltalm_encoder_layers": 1, "token_keep_ratio": 0.6, "token_keep_criterion": "uniform"},
        {"deltalm_share_embeddings": "none", "hubert_form": "base", "deltalm_layerdrop": 0.1},
    ],
)
@torch.no_grad()
def test_every_form_of_the_model_has_its_logits(options):
    """Before it is a graph."""
    model, decoder, encoder = decoder_of(**options)
    tokens = torch.randint(4, 24, (3, 6))
    for samples in (SAMPLES, 3001):
        source = speech(samples)
        out = model.encoder.reorder_encoder_out(model.encoder(**source), torch.tensor([0, 0, 0]))
        expected = model.decoder(tokens, encoder_out=out)[0]
        plan = frame_plan([samples], frames_config(model.encoder.hubert))
        plan = [torch.from_numpy(plan[name]) for name in encoder.plan_names]
        memory = encoder(source["src_tokens"], source["src_lengths"], *plan)
        past = [torch.zeros(len(model.decoder.layers), 3, 4, 0, 8) for _ in range(2)]
        for step in range(tokens.shape[1]):
            logits, *past = decoder(tokens[:, step : step + 1], *memory, *past)
            torch.testing.assert_close(logits, expected[:, step], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_8_bits_are_not_32(folder, waveforms, tmp_path):
    export.export_onnx(*model_and_task(), tmp_path / "int8", SimpleNamespace(int8=True))
    tokens, found = np.array([[2]]), []
    for out in (tmp_path / "int8", folder):
        runner = OnnxTranslator(out)
        found.append(runner.step(tokens, runner.memory(waveforms[0].numpy()), runner.start())[0])
    difference = np.linalg.norm(found[0] - found[1]) / np.linalg.norm(found[1])
    assert 1e-5 < difference < export.INT8_TOLERANCE


def test_a_way_to_drop_frames_that_no_graph_holds_is_refused(tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="--token-keep-criterion: found 'merge', the format holds received"):
        export.export_onnx(*model_and_task(token_keep_criterion="merge"), tmp_path / "x", None)
