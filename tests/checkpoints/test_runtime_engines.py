"""Engines give what the graph says, and what a device needs is one folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fairseq_prune.checkpoints.runtime import engines
from fairseq_prune.checkpoints.runtime.engines import open_graph

INPUTS = ("queries", "keys", "values")


@pytest.fixture
def attention(tmp_path):
    """The path of a graph of attention, of any number of rows, queries and keys."""
    onnx = pytest.importorskip("onnx", reason="in the test extra of the current stack")
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("Transpose", ["keys"], ["turned"], perm=[0, 1, 3, 2]),
        node("MatMul", ["queries", "turned"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=-1),
        node("MatMul", ["weights", "values"], ["found"]),
    ]
    kind = onnx.TensorProto.FLOAT
    places = {"queries": "queries", "keys": "places", "values": "places"}
    graph = onnx.helper.make_graph(
        nodes,
        "attention",
        [value(name, kind, ["rows", 4, places[name], 8]) for name in INPUTS],
        [value("found", kind, ["rows", 4, "queries", 8])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "attention.onnx")
    return tmp_path / "attention.onnx"


def attend(queries, keys, values):
    weights = np.exp(queries @ keys.swapaxes(2, 3))
    return weights / weights.sum(-1, keepdims=True) @ values


def test_attention_is_right_for_every_number_of_keys(attention, engine):
    """OpenVINO's own choice for sizes that vary is wrong with AVX-512, from 16 keys on."""
    graph, rng = open_graph(attention, engine, threads=1), np.random.default_rng(0)
    assert (graph.inputs, graph.outputs) == (list(INPUTS), ["found"])
    for rows, queries, keys in ((5, 1, 1), (5, 1, 15), (5, 1, 16), (1, 1, 17), (2, 7, 40), (1, 3, 150)):
        feeds = {name: rng.standard_normal((rows, 4, keys, 8), dtype=np.float32) for name in INPUTS}
        feeds["queries"] = feeds["queries"][:, :, :1].repeat(queries, 2)
        np.testing.assert_allclose(graph.run(feeds)["found"], attend(**feeds), atol=1e-5)


def test_arrays_that_do_not_lie_in_one_piece_are_read_as_they_are(attention, engine):
    graph, rng = open_graph(attention, engine), np.random.default_rng(0)
    feeds = {name: rng.standard_normal((8, 4, 20, 3), dtype=np.float32).T.swapaxes(1, 2) for name in INPUTS}
    assert not any(value.flags.c_contiguous for value in feeds.values())
    np.testing.assert_allclose(graph.run(feeds)["found"], attend(**feeds), atol=1e-5)


def test_outputs_stay_when_the_graph_runs_again(attention, engine):
    """A decoder gives back what it gave before."""
    graph = open_graph(attention, engine)
    ones = dict.fromkeys(INPUTS, np.ones((1, 4, 3, 8), np.float32))
    found = graph.run(ones)["found"]
    graph.run({**ones, "values": np.zeros((1, 4, 3, 8), np.float32)})
    np.testing.assert_allclose(found, 1)


def test_a_file_that_is_no_graph_is_one_line(tmp_path, engine):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match=rf"x\.onnx: {engine} cannot read this graph \(") as error:
        open_graph(tmp_path / "x.onnx", engine)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, name, extra):
    monkeypatch.setitem(sys.modules, name, None)
    message = rf'{name} cannot be used \(.*\): pip install "fairseq_prune\[{extra}\]"'
    with pytest.raises(ValueError, match=message):
        open_graph(tmp_path / "x.onnx", name)


def test_an_engine_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match="engine: found 'tflite', expected one of onnxruntime, openvino"):
        open_graph(tmp_path / "x.onnx", "tflite")


def test_the_device_needs_neither_torch_nor_this_package(tmp_path):
    shutil.copytree(Path(engines.__file__).parent, tmp_path / "runtime")
    program = """
import sys
sys.modules.update(dict.fromkeys(["torch", "fairseq", "fairseq_prune"]))  # an import of them fails
from runtime.hubert import OnnxRecognizer, OnnxTranslator
from runtime.whisper import OnnxWhisper
try:
    OnnxTranslator("gone", engine="openvino")
except FileNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "gone/config.json: no such file, expected a folder of scripts/export.py\n", (
        done.stderr
    )
