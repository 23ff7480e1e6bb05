"""WavLM's gated relative position bias (arXiv 2110.13900, equations 4 to 7)."""

import math

import torch
from torch import Tensor, nn

from fairseq_prune.modules.frames import Frames
from fairseq_prune.modules.hubert.shapes import GATE_UNITS, HubertShapes


def relative_buckets(offsets: Tensor, buckets: int, max_distance: int) -> Tensor:
    """Bucket of each offset key - query in frames: one for each short offset, logarithmic beyond, T5's scheme.

    Half of the ``buckets`` are for each direction; from ``max_distance`` on all offsets share one.
    """
    half = buckets // 2
    exact = half // 2
    distance = offsets.abs()
    scale = (half - exact) / math.log(max_distance / exact)
    far = exact + (torch.log(distance.float().clamp(min=1) / exact) * scale).long()
    return torch.where(distance < exact, distance, far.clamp(max=half - 1)) + half * (offsets > 0)


class GatedRelativePosition(nn.Module):
    """Bias of the attention logits by relative position, scaled by gates of the query frame.

    One table serves all layers; it lies beside them, so that it outlives the attention of any layer. Frames that
    were dropped leave gaps: the offsets are those of the places that the frames came from.

    Args:
        shapes: of the layers; those without attention have no gates.
        dim: of the layers' inputs, which all heads share before any is cut.
    """

    def __init__(self, shapes: HubertShapes, dim: int):
        super().__init__()
        self.buckets, self.max_distance = shapes.relative_buckets, shapes.relative_distance
        self.num_heads = dim // shapes.head_dim
        self.table = nn.Embedding(self.buckets, self.num_heads)
        self.layers = nn.ModuleDict(
            {str(index): _Gate(shapes.head_dim, heads) for index, heads in enumerate(shapes.heads) if heads}
        )

    def forward(self, index: int, x: Tensor, frames: Frames) -> Tensor:
        """Bias (batch, heads, queries, keys) for the layer ``index`` with the input ``x`` (batch, frames, dim)."""
        gate = self.layers[str(index)]
        if frames.position_bias is None:
            frames.position_bias = self._bias(frames.positions)
        bias = frames.position_bias
        x = x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        if len(gate.heads) < self.num_heads:
            x, bias = x.index_select(1, gate.heads), bias.index_select(1, gate.heads)
        return gate(x) * bias.to(x.dtype)

    def _bias(self, positions: Tensor) -> Tensor:
        """Positions (batch, frames) -> (batch or 1, all heads, frames, frames), not gated."""
        if positions.stride(0) == 0:  # nothing was dropped: the same places in all utterances
            positions = positions[:1]
        offsets = positions.unsqueeze(1) - positions.unsqueeze(2)
        return self.table(relative_buckets(offsets, self.buckets, self.max_distance)).permute(0, 3, 1, 2)


class _Gate(nn.Module):
    """How much each query frame of each head follows the positions."""

    def __init__(self, head_dim: int, heads: int):
        super().__init__()
        self.linear = nn.Linear(head_dim, GATE_UNITS)
        self.scale = nn.Parameter(torch.ones(heads))
        # which of the uncut layer's heads these are
        self.register_buffer("heads", torch.arange(heads))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, heads, queries, head_dim) -> (batch, heads, queries, 1)."""
        update, reset = self.linear(x).unflatten(-1, (2, GATE_UNITS // 2)).sum(-1).sigmoid().unbind(-1)
        return (update * (reset * self.scale.view(-1, 1) - 1) + 2).unsqueeze(-1)
