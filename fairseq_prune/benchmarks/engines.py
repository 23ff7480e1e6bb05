"""HuBERT base in other engines: ONNX Runtime, of our export and of a plain one of transformers', and torch.compile."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from fairseq_prune.checkpoints.hubert.onnx import PRODUCTS, EncoderGraph, write_encoder_graph
from fairseq_prune.checkpoints.hubert.runtime import open_graph
from fairseq_prune.checkpoints.onnx_graphs import write_graph
from fairseq_prune.checkpoints.onnx_quantization import quantize
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert

ENGINES = ("onnx", "onnx_transformers", "transformers_compiled")


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
