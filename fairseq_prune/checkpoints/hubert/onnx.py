"""An encoder as an ONNX graph for any batch and any lengths, in float32 or with weights of 8 bits."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fairseq.modules import Fp32GroupNorm
from torch import Tensor, nn

from fairseq_prune.checkpoints.onnx_graphs import require_held, require_libraries, write_graph
from fairseq_prune.checkpoints.onnx_quantization import quantize
from fairseq_prune.checkpoints.runtime.engines import open_graph
from fairseq_prune.checkpoints.runtime.hubert import frame_plan
from fairseq_prune.modules.frames import Frames
from fairseq_prune.modules.hubert.convolution import norm_over_valid, samples_of_a_frame
from fairseq_prune.modules.hubert.encoder import TokenPrunedHubert
from fairseq_prune.pruning.criteria import Evidence
from fairseq_prune.pruning.tokens import Lengths

TOLERANCE = 1e-3  # of outputs on valid frames, relative to their norm
INT8_TOLERANCE = 0.2
COMPARED = (
    (16_000, 11_000),
    (24_000,),
    (7000, 9000, 8000),
)  # lengths of the batches that are compared, in samples
PRODUCTS = ("MatMul", "Gemm")  # whose weights get 8 bits; convolutions of 8 bits are slower than those of 32
FAR = 2**31  # behind every frame


class EncoderGraph(nn.Module):
    """`TokenPrunedHubert` in tensors alone: all that depends on lengths is a part of the graph, or its plan.

    The plan says how many frames leave each layer that drops some. It follows from the lengths alone; the graph takes
    it as further inputs, `plan_names`, as no graph has shapes that follow from the values of a tensor.
    """

    def __init__(self, hubert: TokenPrunedHubert):
        super().__init__()
        self.hubert = hubert
        self.pruned = [index for index, ratio in enumerate(keep_ratios(hubert)) if ratio < 1.0]

    @property
    def plan_names(self) -> list[str]:
        """counts: (pruned layers, batch), frames that are left of each utterance. ranks_L: (the most of these after
        layer L,), 0, 1, 2, and so on.
        """
        return (["counts"] if self.pruned else []) + [f"ranks_{index}" for index in self.pruned]

    def forward(self, source: Tensor, lengths: Tensor, *plan: Tensor) -> tuple[Tensor, Tensor]:
        """Encode waveforms.

        Args:
            source: (batch, samples), float32 at 16 kHz.
            lengths: (batch,), valid samples of each, int64; enough for a frame.
            plan: as of `plan_names`.

        Returns:
            (batch, frames, dim), of which each row's first (batch,) are valid.
        """
        frames, lengths = self.encode(source, lengths, *plan)
        return frames.x, lengths

    def encode(self, source: Tensor, lengths: Tensor, *plan: Tensor) -> tuple[Frames, Tensor]:
        """The frames that are left, and how many of each utterance (batch,)."""
        hubert = self.hubert
        x, lengths = self._convolve(source, lengths)
        x = hubert.project(x)
        positions = torch.arange(x.shape[1]).expand(x.shape[0], x.shape[1])
        padding_mask = steps_before(lengths, x.transpose(1, 2)) == 0
        layers = range(len(hubert.encoder.layers))
        frames = Frames(x, [], padding_mask, positions, planned=[[] for _ in layers])
        hubert.add_positions(frames)
        for index in layers:
            if index not in self.pruned:
                hubert.run_layer(index, frames)
                continue
            stage = self.pruned.index(index)
            self._attend_and_drop(index, frames, lengths, plan[0][stage], plan[1 + stage])
            lengths = plan[0][stage]
            hubert.feed_forward(index, frames)
        if hubert.encoder.layer_norm_first:
            frames.x = hubert.encoder.layer_norm(frames.x)
        return frames, lengths

    def _convolve(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, samples) -> (batch, channels, frames), and the frames of each."""
        valid = steps_before(lengths, source)
        if self.hubert.normalize:
            source = valid * norm_over_valid(source.unsqueeze(1), valid, 1e-5).squeeze(1)
        x = source.unsqueeze(1)
        for block in self.hubert.feature_extractor.conv_layers:
            for module in block:
                if isinstance(module, Fp32GroupNorm):
                    weight, bias = module.weight.unsqueeze(1), module.bias.unsqueeze(1)
                    x = norm_over_valid(x, valid, module.eps) * weight + bias
                else:
                    x = module(x)
                if isinstance(module, nn.Conv1d):
                    kernel, stride = module.kernel_size[0], module.stride[0]
                    lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
                    valid = steps_before(lengths, x)
        return x, lengths

    def _attend_and_drop(
        self, index: int, frames: Frames, lengths: Tensor, counts: Tensor, ranks: Tensor
    ) -> None:
        """A layer up to its feed-forward block, and `DropsFrames.drop_frames`."""
        rule = self.hubert.pruning.rule
        residual, received, _ = self.hubert.attend(index, frames, rule.reads_attention)
        scores = rule.score(Evidence(residual, Lengths([], lengths), Lengths([], counts), received))
        scores = scores.masked_fill(frames.padding_mask, -math.inf)
        # ONNX's TopK gives the earlier one where scores tie
        order = scores.sort(dim=1, descending=True).indices.index_select(1, ranks)
        padding = ranks >= counts.unsqueeze(1)
        kept = order.masked_fill(padding, FAR).sort(dim=1).values.masked_fill(padding, 0)
        frames.select(kept, padding, [])


def steps_before(lengths: Tensor, x: Tensor) -> Tensor:
    """(batch, time): 1 where a step of ``x`` (batch, ..., time) is valid, else 0."""
    return (torch.arange(x.shape[-1]) < lengths.unsqueeze(1)).float()


def keep_ratios(encoder: TokenPrunedHubert) -> list[float]:
    """Of each layer, where the warm-up is now; a layer without attention drops no frames."""
    return [encoder.keep_ratio(index) if heads else 1.0 for index, heads in enumerate(encoder.shapes.heads)]


def frames_config(encoder: TokenPrunedHubert) -> dict:
    """What `runtime.hubert.frame_plan` must know."""
    return {
        "convolutions": [list(sizes) for sizes in encoder.kernels_strides],
        "keep_ratios": keep_ratios(encoder),
        "keep_at_least": encoder.pruning.minimum,
    }


def write_encoder_graph(graph: EncoderGraph, path: Path, outputs: Sequence[str], batch: bool = True) -> None:
    """Write a graph that begins as `EncoderGraph` does.

    Args:
        batch: whether it takes several waveforms at a time.

    Raises:
        ValueError: onnx or onnxruntime is missing, or frames are dropped in a way that no graph holds.
    """
    require_libraries()
    require_held(graph.hubert.pruning)
    lengths = [16_000, 12_000] if batch else [16_000]
    plan = frame_plan(lengths, frames_config(graph.hubert))
    arguments = {
        "source": torch.randn(len(lengths), lengths[0]),
        "lengths": torch.tensor(lengths),
        **{name: torch.from_numpy(plan[name]) for name in graph.plan_names},
    }
    samples = torch.export.Dim("samples", min=samples_of_a_frame(graph.hubert.kernels_strides))
    rows = {0: torch.export.Dim("batch")} if batch else {}
    shapes = {"source": {1: samples, **rows}, "lengths": rows or None}
    if graph.pruned:
        shapes["counts"] = {1: rows[0]} if batch else None
    for index in graph.pruned:
        shapes[f"ranks_{index}"] = {0: torch.export.Dim(f"kept_{index}")}
    shapes = [shapes[name] for name in arguments]
    dynamic = (*shapes[:2], tuple(shapes[2:])) if graph.pruned else shapes
    write_graph(graph, list(arguments.values()), path, list(arguments), outputs, dynamic)


def export_onnx(encoder: TokenPrunedHubert, out: Path, int8: bool = False) -> None:
    """Write an ONNX file: ``source``, ``lengths`` -> ``features``, ``frames`` (see `EncoderGraph.forward`).

    Args:
        encoder: float32, in evaluation mode.
        out: file to write.
        int8: quantise the matrices of the transformer dynamically; convolutions stay in float32.

    Raises:
        ValueError: onnx or onnxruntime is missing, the encoder drops frames, or ONNX Runtime computes something else.
    """
    if not encoder.pruning.keeps_all:
        raise ValueError("the format holds no token pruning: export the encoder with --token-keep-ratio 1.0")
    write_encoder_graph(EncoderGraph(encoder), out, ["features", "frames"])
    if int8:
        quantize(out, out, PRODUCTS)
    graph = open_graph(out)
    for lengths in COMPARED:
        difference = _difference(encoder, graph, list(lengths))
        tolerance = INT8_TOLERANCE if int8 else TOLERANCE
        if not difference <= tolerance:
            raise ValueError(
                f"{out}: ONNX Runtime gives other outputs than the model (relative difference {difference:.1e} for"
                f" utterances of {list(lengths)} samples, at most {tolerance:g} was expected)"
            )


def noise(lengths: Sequence[int]) -> Tensor:
    """(batch, samples), zero padded."""
    generator = torch.Generator().manual_seed(0)
    source = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(source, lengths):
        row[:length] = 0.1 * torch.randn(length, generator=generator)
    return source


@torch.no_grad()
def _difference(encoder, graph, lengths: list[int]) -> float:
    """Relative difference of ONNX Runtime's features on valid frames; infinite if their number is another."""
    source = noise(lengths)
    expected = encoder(source, lengths)
    outputs = graph.run({"source": source.numpy(), "lengths": np.array(lengths)})
    features, frames = outputs["features"], outputs["frames"]
    if frames.tolist() != expected.lengths:
        return float("inf")
    found, valid = (
        torch.from_numpy(features),
        torch.arange(features.shape[1]) < torch.tensor(frames).unsqueeze(1),
    )
    return float((found - expected.x)[valid].norm() / expected.x[valid].norm())
