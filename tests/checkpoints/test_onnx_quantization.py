"""Graphs with weights of 8 bits compute the same on every processor."""

import numpy as np
import pytest

from fairseq_prune.checkpoints.onnx_quantization import quantize

onnx = pytest.importorskip("onnx", reason="in the test extra of the current stack")
runtime = pytest.importorskip("onnxruntime", reason="in the test extra of the current stack")


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_products_do_not_saturate(operator, tmp_path):
    """All weights and inputs are near the ends of their ranges, so that neighbouring products add up to the most."""
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.9, 1.0, (64, 8)).astype(np.float32)
    weight[:, 1] *= -1
    weight[0, :] = -1
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["x", "weight"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", 64])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", 8])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    quantize(model, tmp_path / "small.onnx", [operator])
    session = runtime.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    x = rng.uniform(0.9, 1.0, (3, 64)).astype(np.float32)
    found = session.run(None, {"x": x})[0]
    np.testing.assert_allclose(found, x @ weight, rtol=0.01, atol=0.3)


def test_weights_have_the_sign_of_the_inputs(tmp_path):
    """Products of unsigned and signed bytes saturate on x86 without VNNI; this holds on the others too."""
    weight = onnx.numpy_helper.from_array(
        np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32), "w"
    )
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    quantize(model, tmp_path / "small.onnx", ["MatMul"])
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert onnx.TensorProto.UINT8 in kinds and onnx.TensorProto.INT8 not in kinds
