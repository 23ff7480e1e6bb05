"""Exports for ONNX Runtime of encoders that thin silence and drop frames."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_whisper import clips, huggingface_whisper, our_names, small_tokenizer, small_whisper

from fairseq_prune.checkpoints.onnx_graphs import HELD_CRITERIA
from fairseq_prune.checkpoints.runtime import whisper as runtime
from fairseq_prune.checkpoints.whisper import onnx

MEL_FRAMES = 200
TOKENIZER = small_tokenizer()
SIZES = {"max_source_positions": MEL_FRAMES // 2, "encoder_layers": 3, "decoder_layers": 2}
WEIGHTS = our_names(huggingface_whisper(TOKENIZER, end=0, **SIZES))


def build(ratios=(1.0, 1.0, 1.0), criterion="received", minimum=1, **options):
    model = small_whisper(WEIGHTS, TOKENIZER, **SIZES, **options)
    model.encoder.pruning = replace(
        model.encoder.pruning, keep_ratios=list(ratios), criterion=criterion, minimum=minimum
    )
    return model


def task():
    cfg = SimpleNamespace(language=None, spoken_task="transcribe", suppress_tokens="none")
    return SimpleNamespace(tokenizer=TOKENIZER, prefix=TOKENIZER.prefix(None), cfg=cfg)


@torch.no_grad()
def logits_of_torch(model, features, tokens):
    encoded = model.encoder(features[None], torch.tensor([len(features)]))
    return model.decoder(torch.tensor([tokens]), encoded)[0][0].numpy()


def logits_of_onnx(folder, engine, features, tokens):
    runner, found = runtime.OnnxWhisper(folder, engine=engine), []
    memory, cache = runner.encode(features.numpy()), runner.start()
    for token in tokens:
        logits, cache = runner.step(token, memory, cache)
        found.append(logits.copy())
    return np.stack(found)


@settings(max_examples=60, deadline=None)
@given(
    frames=st.integers(1, MEL_FRAMES),
    context=st.sampled_from(["30s", "clip", "clip+0.2", "clip+0.37"]),
    stride=st.integers(1, 9),
    ratio=st.sampled_from([0.1, 0.25, 0.5, 0.9, 1.0]),
    criterion=st.sampled_from(HELD_CRITERIA),
    keeps_silence=st.booleans(),
)
@torch.no_grad()
def test_the_graph_keeps_the_frames_of_the_model(frames, context, stride, ratio, criterion, keeps_silence):
    """Of any length; before it is a graph."""
    model = build(
        (ratio, 1.0, ratio),
        criterion,
        minimum=3,
        audio_context=context,
        silence_stride=stride,
        token_keep_silence=keeps_silence,
    )
    features, lengths = clips(frames)
    cache = model.decoder._new_cache(model.encoder(features, lengths))
    encoder = onnx.ClipEncoder(model).eval()
    given = runtime.encoder_inputs(features[0].numpy(), onnx.runtime_config(model, task()))
    given = {name: torch.from_numpy(value) for name, value in given.items()}
    assert set(given) == {"features", *encoder.plan_names}
    keys, values, *bias = encoder(given["features"], *(given[name] for name in encoder.plan_names))
    for layer, (own, expected) in enumerate(zip(zip(keys, values), cache.memory)):
        for found, wanted in zip(own, expected):
            torch.testing.assert_close(
                found, wanted, rtol=1e-4, atol=1e-4, msg=lambda m, n=layer: f"{n}: {m}"
            )
    assert bool(bias) == (stride > 1)
    if bias:
        wanted = torch.zeros_like(bias[0]) if cache.mask is None else cache.mask
        torch.testing.assert_close(bias[0], wanted)


@pytest.mark.parametrize(
    ("options", "int8"),
    [
        ({"audio_context": "clip+0.6", "silence_stride": 4}, True),
        ({"ratios": (1.0, 0.5, 0.8), "silence_stride": 8, "token_keep_silence": True}, False),
    ],
)
def test_onnx_gives_the_logits_of_a_model_that_hears_fewer_frames(tmp_path, options, int8, engine):
    for library in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(library, reason="in the test extra of the current stack")
    model, tokens = build(**options), [*task().prefix, 7, 9]
    onnx.export_onnx(model, task(), tmp_path / "out", SimpleNamespace(int8=int8))
    for frames in (3, 70, 121, MEL_FRAMES):
        features = clips(frames, seed=frames)[0][0]
        expected = logits_of_torch(model, features, tokens)
        found = logits_of_onnx(tmp_path / "out", engine, features, tokens)
        assert np.abs(found - expected).max() < (0.1 if int8 else 1e-4) * np.abs(expected).max()


@pytest.mark.parametrize("criterion", ["merge", "random"])
def test_a_way_to_drop_frames_that_the_graph_cannot_hold_is_refused(tmp_path, criterion):
    pytest.importorskip("onnxscript")
    model = build((0.5, 0.5, 0.5), criterion)
    message = f"--token-keep-criterion: found '{criterion}', the format holds received, norm, uniform"
    with pytest.raises(ValueError, match=message):
        onnx.export_onnx(model, task(), tmp_path / "x", SimpleNamespace(int8=False))
    assert not (tmp_path / "x").exists()
