"""HuBERT in other engines: ONNX Runtime and OpenVINO, CTranslate2's wav2vec 2.0, and torch.compile."""

import contextlib
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fairseq_prune.checkpoints.extras import import_extra, quiet
from fairseq_prune.checkpoints.hubert.onnx import PRODUCTS, EncoderGraph, write_encoder_graph
from fairseq_prune.checkpoints.hubert.runtime import open_graph
from fairseq_prune.checkpoints.onnx_graphs import write_graph
from fairseq_prune.checkpoints.onnx_quantization import quantize
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert

GRAPHS = ("onnx", "onnx_transformers", "openvino")
ENGINES = (*GRAPHS, "ctranslate2_wav2vec2", "transformers_compiled")


class OnnxModule(nn.Module):
    """A graph in ONNX Runtime, on as many threads as torch has.

    Args:
        path: of the graph, whose inputs are waveforms (batch, samples), and lengths (batch,) if it has a second one.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.session = open_graph(path, torch.get_num_threads())
        self.names = [value.name for value in self.session.get_inputs()]
        self.bytes = path.stat().st_size

    def forward(self, waveforms: Tensor) -> Tensor:
        """(batch, samples) -> (batch, frames, dim)."""
        lengths = torch.full((len(waveforms),), waveforms.shape[1])
        inputs = dict(zip(self.names, (waveforms.numpy(), lengths.numpy())))
        return torch.from_numpy(self.session.run(None, inputs)[0])


class OpenVinoModule(nn.Module):
    """A graph in OpenVINO, on as many threads as torch has.

    Args:
        path: of our export, whose inputs are waveforms (batch, samples) and lengths (batch,).
        calibration: waveforms (batch, samples), of which NNCF takes the ranges of activations in 8 bits; without
            them all is float32.

    Raises:
        ValueError: openvino or nncf is missing.
    """

    def __init__(self, path: Path, calibration: Sequence[Tensor] = ()):
        super().__init__()
        openvino = import_extra("openvino", "openvino")
        core = openvino.Core()
        graph = core.read_model(path)
        if calibration:
            os.environ.setdefault("NNCF_CI", "1")  # or NNCF would report its use to its makers
            nncf = import_extra("nncf", "openvino")
            ranges = nncf.Dataset(calibration, self._inputs)
            kind = nncf.ModelType.TRANSFORMER
            with quiet(), contextlib.redirect_stdout(io.StringIO()):  # of its progress
                graph = nncf.quantize(graph, ranges, model_type=kind, subset_size=len(calibration))
        weights = path.with_suffix(".bin")
        openvino.save_model(graph, path.with_suffix(".xml"), compress_to_fp16=False)
        self.bytes = weights.stat().st_size
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self.graph = core.compile_model(graph, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})

    def forward(self, waveforms: Tensor) -> Tensor:
        """(batch, samples) -> (batch, frames, dim)."""
        return torch.from_numpy(self.graph(self._inputs(waveforms))[0])

    @staticmethod
    def _inputs(waveforms: Tensor) -> dict:
        lengths = torch.full((len(waveforms),), waveforms.shape[1])
        return {"source": waveforms.numpy(), "lengths": lengths.numpy()}


class CTranslate2Module(nn.Module):
    """wav2vec 2.0 in CTranslate2, on as many threads as torch has.

    It has the form of HuBERT large alone: layer norms in the extractor, pre-norm, biases of convolutions.

    Args:
        model: `Wav2Vec2ForCTC` of transformers, whose head is left out.

    Raises:
        ValueError: ctranslate2 is missing.
    """

    def __init__(self, model: nn.Module, dtype: str = "float32"):
        super().__init__()
        ctranslate2 = import_extra("ctranslate2", "ctranslate2")
        from ctranslate2.converters.transformers import Wav2Vec2Loader

        model.config.return_hidden = True
        layout = Wav2Vec2Loader().get_model_spec(model)
        layout.register_vocabulary([str(index) for index in range(model.config.vocab_size)])
        layout.validate()
        layout.optimize(dtype)
        options = {"compute_type": dtype, "inter_threads": 1, "intra_threads": torch.get_num_threads()}
        with tempfile.TemporaryDirectory() as folder:
            layout.save(folder)
            self.bytes = Path(folder, "model.bin").stat().st_size
            self.engine = ctranslate2.models.Wav2Vec2(folder, device="cpu", **options)
        self.view = ctranslate2.StorageView.from_array

    def forward(self, waveforms: Tensor) -> Tensor:
        """(batch, samples), normalised -> (batch, frames, dim)."""
        found = self.engine.encode(self.view(waveforms.unsqueeze(1).numpy()), to_cpu=True)
        return torch.from_numpy(np.array(found))


class _LastState(nn.Module):
    def __init__(self, hubert: nn.Module):
        super().__init__()
        self.hubert = hubert

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.hubert(waveforms).last_hidden_state


def onnx_module(encoder: nn.Module, int8: bool = False) -> OnnxModule:
    """An encoder of ours or of transformers as a graph, its matrices in 8 bits if asked for.

    Raises:
        ValueError: onnx or onnxruntime is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        if isinstance(encoder, TokenPrunedHubert):
            write_encoder_graph(EncoderGraph(encoder), path, ["features", "frames"])
        else:
            example = [torch.randn(2, 16_000)]
            shapes = [{0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=400)}]
            write_graph(_LastState(encoder), example, path, ["source"], ["features"], shapes)
        if int8:
            quantize(path, path, PRODUCTS)
        return OnnxModule(path)


def openvino_module(encoder: TokenPrunedHubert, int8: bool = False) -> OpenVinoModule:
    """Our export in OpenVINO; in 8 bits with ranges from noise, as the benchmark's audio is.

    Raises:
        ValueError: a library is missing.
    """
    generator = torch.Generator().manual_seed(1)
    noise = [0.1 * torch.randn(1, 16_000, generator=generator) for _ in range(4 if int8 else 0)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        write_encoder_graph(EncoderGraph(encoder), path, ["features", "frames"])
        return OpenVinoModule(path, noise)
