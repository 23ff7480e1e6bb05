"""The engines that run an ONNX file on the processor, with one interface: ONNX Runtime and OpenVINO."""

from pathlib import Path

import numpy as np

ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"
ENGINES = (ONNX_RUNTIME, OPENVINO)
EXTRAS = {ONNX_RUNTIME: "onnx", OPENVINO: "openvino"}  # of this package, which bring the library


class OnnxRuntimeGraph:
    """A graph in ONNX Runtime.

    Args:
        path: of the ONNX file.
        threads: 0 leaves the choice to the engine.
    """

    def __init__(self, path: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name, of inputs by name."""
        return dict(zip(self.outputs, self._session.run(None, feeds)))


class OpenVinoGraph:
    """A graph in OpenVINO; arguments and methods as of `OnnxRuntimeGraph`."""

    def __init__(self, path: Path, threads: int):
        import openvino

        # float32 stays float32, and no activation is rounded that the file does not round
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "EXECUTION_MODE_HINT": "ACCURACY",
            "SNIPPETS_MODE": "DISABLE",
        }
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        self._graph = openvino.Core().compile_model(str(path), "CPU", options)
        self.inputs = [value.any_name for value in self._graph.inputs]
        self.outputs = [value.any_name for value in self._graph.outputs]

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name, of inputs by name."""
        return dict(zip(self.outputs, self._graph(feeds).values()))


GRAPHS = {ONNX_RUNTIME: OnnxRuntimeGraph, OPENVINO: OpenVinoGraph}


def open_graph(path, engine: str = ONNX_RUNTIME, threads: int = 0):
    """A graph with ``inputs``, ``outputs`` (names), and ``run``: arrays by name -> arrays by name.

    Args:
        path: of the ONNX file.
        engine: of `ENGINES`.
        threads: of the engine; 0 leaves the choice to it.

    Raises:
        ValueError: there is no such engine, its library is missing, or it cannot read the file.
    """
    if engine not in GRAPHS:
        raise ValueError(f"engine: found {engine!r}, expected one of {', '.join(ENGINES)}")
    try:
        return GRAPHS[engine](Path(path), threads)
    except ImportError as error:
        extra = EXTRAS[engine]
        raise ValueError(f'{engine} cannot be used ({error}): pip install "fairseq_prune[{extra}]"') from None
    except Exception as error:  # each library has errors of its own, over many lines
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: {engine} cannot read this graph ({reason})") from None
