"""Encoders in ONNX Runtime: any batch and any lengths give what the encoder gives."""

import pytest
import torch
from small_encoder import make_encoder

from fairseq_prune.checkpoints.hubert.onnx import EncoderGraph, export_onnx

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
        ("base", False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("base", True), ("large", False), ("wavlm", False))
        ),
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
