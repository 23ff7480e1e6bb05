"""HuBERT in other engines: ONNX Runtime and OpenVINO, CTranslate2's wav2vec 2.0, and torch.compile."""

import contextlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fairseq_prune.checkpoints.extras import import_extra, quiet
from fairseq_prune.checkpoints.hubert.onnx import PRODUCTS, EncoderGraph, write_encoder_graph
from fairseq_prune.checkpoints.onnx_graphs import write_graph
from fairseq_prune.checkpoints.onnx_quantization import quantize
from fairseq_prune.checkpoints.runtime.engines import ONNX_RUNTIME, OPENVINO, open_graph
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert

GRAPHS = ("onnx", "onnx_transformers", "openvino")
ENGINES = (*GRAPHS, "ctranslate2_wav2vec2", "transformers_compiled")


class GraphModule(nn.Module):
    """A graph in an engine, on as many threads as torch has.

    Args:
        path: of the graph, whose inputs are waveforms (batch, samples), and lengths (batch,) if it has a second one.
        engine: of `runtime.engines.ENGINES`.
    """

    def __init__(self, path: Path, engine: str = ONNX_RUNTIME):
        super().__init__()
        self.graph = open_graph(path, engine, torch.get_num_threads())
        self.bytes = path.stat().st_size

    def forward(self, waveforms: Tensor) -> Tensor:
        """(batch, samples) -> (batch, frames, dim)."""
        found = self.graph.run(dict(zip(self.graph.inputs, inputs_of(waveforms))))
        return torch.from_numpy(found["features"])


def inputs_of(waveforms: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Waveforms (batch, samples), and the length of each."""
    return waveforms.numpy(), np.full(len(waveforms), waveforms.shape[1])


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


def onnx_module(encoder: nn.Module, int8: bool = False) -> GraphModule:
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
        return GraphModule(path)


def openvino_module(encoder: TokenPrunedHubert, int8: bool = False) -> GraphModule:
    """Our export in OpenVINO; in 8 bits with ranges from noise, as the benchmark's audio is.

    Raises:
        ValueError: a library is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        write_encoder_graph(EncoderGraph(encoder), path, ["features", "frames"])
        if not int8:
            return GraphModule(path, OPENVINO)
        module = GraphModule(_in_8_bits(path), OPENVINO)
        module.bytes = path.with_suffix(".bin").stat().st_size
        return module


def _in_8_bits(path: Path) -> Path:
    """Our export with activations in 8 bits too, whose ranges NNCF takes from noise: a file of OpenVINO."""
    generator = torch.Generator().manual_seed(1)
    noise = [0.1 * torch.randn(1, 16_000, generator=generator) for _ in range(4)]
    openvino = import_extra("openvino", "openvino")
    os.environ.setdefault("NNCF_CI", "1")  # or NNCF would report its use to its makers
    nncf = import_extra("nncf", "bench")
    ranges = nncf.Dataset(noise, lambda waveforms: dict(zip(("source", "lengths"), inputs_of(waveforms))))
    kind = nncf.ModelType.TRANSFORMER
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # of its progress
        graph = nncf.quantize(
            openvino.Core().read_model(path), ranges, model_type=kind, subset_size=len(noise)
        )
    openvino.save_model(graph, path.with_suffix(".xml"), compress_to_fp16=False)
    return path.with_suffix(".xml")
