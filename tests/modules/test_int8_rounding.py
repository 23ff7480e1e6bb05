"""Rounding to 8 bits against torch.ao and against ONNX Runtime, and its gradient."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import FakeQuantize
from torch.ao.quantization.observer import PerChannelMinMaxObserver

from fairseq_prune.modules.int8_rounding import (
    RoundedEmbedding,
    RoundedLinear,
    RoundedProjection,
    rounded,
)


def test_rows_are_rounded_as_torchs_own_tools_round_channels():
    weight = torch.randn(7, 33, generator=torch.Generator().manual_seed(0))
    weight[3] = weight[3].abs()  # a range that would begin above 0
    theirs = FakeQuantize(
        PerChannelMinMaxObserver, dtype=torch.quint8, qscheme=torch.per_channel_affine, ch_axis=0
    )
    torch.testing.assert_close(rounded(weight, 1), theirs(weight))


@pytest.mark.parametrize("low", [-1.0, 0.2, 0.0])
def test_a_clip_is_rounded_as_onnx_runtime_rounds_its_inputs(low):
    onnx = pytest.importorskip("onnx", reason="in the test extra of the current stack")
    runtime = pytest.importorskip("onnxruntime", reason="in the test extra of the current stack")
    levels = ["levels", "step", "zero"]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("DynamicQuantizeLinear", ["x"], levels),
            onnx.helper.make_node("DequantizeLinear", levels, ["y"]),
        ],
        "rounding",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [5, 16])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [5, 16])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    clips = np.random.default_rng(1).uniform(low, 3.0, (2, 5, 16)).astype(np.float32)
    expected = np.stack([session.run(None, {"x": clip})[0] for clip in clips])
    np.testing.assert_allclose(rounded(torch.from_numpy(clips), 2), expected, atol=1e-6)


def test_zero_stays_zero_and_there_are_256_levels():
    x = torch.linspace(-1, 2, 10_001)
    near = rounded(x, 1)
    assert len(near.unique()) == 256 and (near == 0).any()
    assert (near - x).abs().max() <= 3 / 255 / 2 * 1.001
    assert torch.equal(rounded(torch.zeros(2, 3), 1), torch.zeros(2, 3))


def test_gradients_pass_as_if_nothing_were_rounded():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5), torch.randn(2, 4, 6, requires_grad=True)
    RoundedLinear(layer, 1)(x).sum().backward()
    # of the product of the rounded ones
    torch.testing.assert_close(x.grad, rounded(layer.weight, 1).detach().sum(0).expand(2, 4, 6))
    inputs = rounded(x, 1).detach().flatten(0, 1).sum(0)
    torch.testing.assert_close(layer.weight.grad, inputs.expand(5, 6))
    torch.testing.assert_close(layer.bias.grad, torch.full((5,), 8.0))


def test_what_is_quantised_as_one_tensor_follows_dims():
    torch.manual_seed(0)
    layer = nn.Linear(8, 3)
    loud = torch.randn(1, 4, 8)
    loud[0, 0] *= 100
    alone = RoundedLinear(layer, 1)(loud)
    torch.testing.assert_close(RoundedLinear(layer, 1)(loud[:, 1:]), alone[:, 1:])
    together = RoundedLinear(layer, 2)(loud)
    torch.testing.assert_close(together[:, :1], alone[:, :1])
    errors = [(found[:, 1:] - layer(loud)[:, 1:]).abs().mean() for found in (alone, together)]
    assert errors[1] > 10 * errors[0]


def test_an_embedding_has_one_scale_and_its_projection_one_for_each_token():
    torch.manual_seed(0)
    embedding = nn.Embedding(9, 4)
    embedding.weight.data[0] *= 100
    expected = rounded(embedding.weight.flatten(), 1).view(9, 4)
    torch.testing.assert_close(RoundedEmbedding(embedding)(torch.tensor([[3, 0]]))[0], expected[[3, 0]])
    x, projection = torch.randn(1, 2, 4), RoundedProjection(embedding)
    torch.testing.assert_close(projection(x), rounded(x, 1) @ rounded(embedding.weight, 1).t())
    assert not projection.state_dict()
