"""Encoders in ONNX Runtime: any batch and any lengths give what the encoder gives."""

import pytest
import torch
from small_encoder import make_encoder

from fairseq_prune.checkpoints.hubert.onnx import EncoderGraph, export_onnx, frames_config
from fairseq_prune.checkpoints.onnx_graphs import HELD_CRITERIA
from fairseq_prune.checkpoints.runtime.hubert import frame_plan
from fairseq_prune.modules.frames import TokenPruning

FORMS = {
    "base": {"heads": (3, 0), "units": (0, 20)},
    "large": {"form": "large"},
    "wavlm": {"heads": (4, 3), "relative_buckets": 32, "relative_distance": 64},
}


def batch(*lengths):
    torch.manual_seed(0)
    source = torch.zeros(len(lengths), max(lengths))
    for row, n in zip(source, lengths):
        row[:n] = torch.randn(n)
    return source, list(lengths)


@pytest.mark.parametrize("form", FORMS)
def test_the_graph_computes_what_the_encoder_does(form):
    encoder = make_encoder(**FORMS[form])
    source, lengths = batch(6000, 4000, 400)
    with torch.no_grad():
        expected = encoder(source, lengths)
        found, frames = EncoderGraph(encoder)(source, torch.tensor(lengths))
    assert frames.tolist() == expected.lengths
    valid = ~expected.padding_mask
    torch.testing.assert_close(found[valid], expected.x[valid], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "int8"),
    [
        # test_recognizer_export.py has such a graph that is not slow
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (("base", False), ("base", True), ("large", False), ("wavlm", False))
    ],
)
def test_onnx_runtime_takes_batches_and_lengths_that_the_export_did_not_see(form, int8, tmp_path):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason="in the extra 'test' of the current stack only")
    runtime = pytest.importorskip("onnxruntime", reason="in the extra 'test' of the current stack only")
    encoder = make_encoder(**FORMS[form])
    export_onnx(encoder, tmp_path / "x.onnx", int8)  # compares several batches itself
    session = runtime.InferenceSession(str(tmp_path / "x.onnx"))
    source, lengths = batch(5000, 3300, 4100, 400, 2000)
    features, frames = session.run(None, {"source": source.numpy(), "lengths": torch.tensor(lengths).numpy()})
    with torch.no_grad():
        expected = encoder(source, lengths)
    assert frames.tolist() == expected.lengths and features.shape == tuple(expected.x.shape)
    valid = ~expected.padding_mask
    found = torch.from_numpy(features)[valid]
    difference = (found - expected.x[valid]).norm() / expected.x[valid].norm()
    assert 1e-4 < difference < 0.2 if int8 else difference < 1e-4  # 8 bits are not 32


def test_an_encoder_that_drops_frames_is_refused(tmp_path):
    encoder = make_encoder()
    encoder.pruning.keep_ratios = [0.5, 1.0]
    with pytest.raises(ValueError, match="--token-keep-ratio 1.0"):
        export_onnx(encoder, tmp_path / "x.onnx")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("criterion", HELD_CRITERIA)
def test_the_graph_drops_the_frames_that_the_encoder_drops(form, criterion):
    encoder = make_encoder(**{**FORMS[form], "heads": (4, 3)})
    encoder.pruning = TokenPruning([0.6, 0.7], criterion, minimum=3)
    source, lengths = batch(6000, 4000, 400)
    plan = frame_plan(lengths, frames_config(encoder))
    graph = EncoderGraph(encoder)
    assert set(plan) == set(graph.plan_names)
    with torch.no_grad():
        expected = encoder(source, lengths)
        plan = [torch.from_numpy(plan[name]) for name in graph.plan_names]
        found, frames = graph(source, torch.tensor(lengths), *plan)
    assert frames.tolist() == expected.lengths and max(frames) < 12
    valid = ~expected.padding_mask
    torch.testing.assert_close(found[valid], expected.x[valid], rtol=1e-4, atol=1e-5)


def test_the_plan_follows_the_warm_up_and_layers_without_attention():
    encoder = make_encoder(heads=(0, 4))
    encoder.pruning = TokenPruning([0.5, 0.5], warmup_updates=100)
    encoder.set_num_updates(50)
    assert frames_config(encoder)["keep_ratios"] == [1.0, 0.75]
    assert frame_plan([6000], frames_config(encoder))["counts"].tolist() == [[encoder.frame_counts(6000)[-1]]]
