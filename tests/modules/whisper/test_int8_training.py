"""A Whisper that is trained with 8 bits: nearer to its export than the float model, and the same file afterwards."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_whisper import huggingface_whisper, our_names, small_tokenizer, small_whisper
from torch import nn

from fairseq_prune.modules.int8_rounding import RoundedEmbedding, RoundedLinear
from fairseq_prune.modules.whisper.int8_training import round_as_int8_


def trained_for_8_bits(model):
    model = copy.deepcopy(model)
    round_as_int8_(model)
    return model


def test_parameters_are_the_same_under_the_same_names():
    model = small_whisper()
    before = dict(model.named_parameters())
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    round_as_int8_(model)
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and all(after[name] is before[name] for name in before)
    assert model.state_dict().keys() == expected.keys()
    assert not [name for name, part in model.named_modules() if type(part) is nn.Linear]
    assert isinstance(model.decoder.embed_tokens, RoundedEmbedding)
    small_whisper(model.state_dict())  # loads


def test_what_the_export_reads_at_once_is_rounded_at_once():
    """The encoder hears a clip, and cross-attention reads all of it; the decoder reads a token at a time."""
    model = trained_for_8_bits(small_whisper())
    dims = {name: part.dims for name, part in model.named_modules() if isinstance(part, RoundedLinear)}
    of_clips = {name for name, count in dims.items() if count == 2}
    memory = {name for name in dims if name.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))}
    assert of_clips == memory | {name for name in dims if name.startswith("encoder.")}


@torch.no_grad()
def test_a_token_does_not_depend_on_those_after_it():
    model = trained_for_8_bits(small_whisper(our_names(huggingface_whisper())))
    features, lengths = torch.randn(1, 40, 80), torch.tensor([40])
    tokens = torch.tensor([[3, 5, 7, 9]])
    whole = model(features, lengths, tokens)[0]
    torch.testing.assert_close(model(features, lengths, tokens[:, :2])[0], whole[:, :2])


def test_every_parameter_is_trained():
    model = trained_for_8_bits(small_whisper(our_names(huggingface_whisper())).train())
    model(torch.randn(2, 40, 80), torch.tensor([40, 33]), torch.tensor([[3, 5], [3, 7]]))[0].logsumexp(
        -1
    ).sum().backward()
    silent = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not silent


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Model, and its folder of 8 bits for ONNX Runtime."""
    for library in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(library, reason="in the test extra of the current stack")
    from fairseq_prune.checkpoints.whisper.onnx import export_onnx

    tokenizer = small_tokenizer()
    weights = our_names(huggingface_whisper(tokenizer, end=0, encoder_layers=1, decoder_layers=1))
    model = small_whisper(weights, tokenizer, encoder_layers=1, decoder_layers=1, audio_context="clip")
    cfg = SimpleNamespace(language=None, spoken_task="transcribe", suppress_tokens="none")
    task = SimpleNamespace(tokenizer=tokenizer, prefix=tokenizer.prefix(None), cfg=cfg)
    out = tmp_path_factory.mktemp("onnx") / "int8"
    export_onnx(model, task, out, SimpleNamespace(int8=True))
    assert json.loads((out / "config.json").read_text())["audio_context"] == "clip"
    return model, out


@torch.no_grad()
def test_logits_are_those_of_the_export(exported):
    from fairseq_prune.checkpoints.runtime.whisper import OnnxWhisper

    model, folder = exported
    runner, tokens = OnnxWhisper(folder, threads=1), [4, 9, 30, 2]
    differences = {"float": [], "rounded": []}
    for seed in range(4):
        features = torch.randn(1, 90, 80, generator=torch.Generator().manual_seed(seed))
        memory, cache, found = runner.encode(features[0].numpy()), runner.start(), []
        for token in tokens:
            logits, cache = runner.step(token, memory, cache)
            found.append(logits.copy())
        for name, ours in (("float", model), ("rounded", trained_for_8_bits(model))):
            logits = ours(features, torch.tensor([90]), torch.tensor([tokens]))[0][0].numpy()
            differences[name].append(np.abs(logits - np.stack(found)).mean() / np.abs(logits).mean())
    assert max(differences["rounded"]) < 1e-3 < 1e-2 < min(differences["float"])
