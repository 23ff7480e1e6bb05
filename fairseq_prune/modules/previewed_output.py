"""The output projection of a decoder that looks at the likeliest tokens alone in full (`pruning.output_preview`)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fairseq_prune.modules.packed import packed
from fairseq_prune.pruning.output_preview import fill_candidates

CANDIDATES = 128  # that are computed in full unless it is said otherwise
MOST_ROWS = 32  # of more, one product with all weights takes as long for the vocabulary of a Whisper


class OutputPreview(NamedTuple):
    """How the first look is made.

    directions: (dim, size), orthonormal, float32. candidates: tokens of each row that are computed in full.
    """

    directions: Tensor
    candidates: int


class PreviewedOutput(nn.Module):
    """Logits for inference on the CPU: exact for the candidates of a step, and for the others those of the first look.

    The first look has weights of 8 bits, which it forgives: it needs no more than to find the candidates.

    Args:
        layer: the output projection, in float32 and without bias. Its weight is kept as it is, too.
        preview: what to look at.
        int8: the product of many rows with weights of 8 bits.
    """

    def __init__(self, layer: nn.Linear, preview: OutputPreview, int8: bool = False):
        super().__init__()
        self.weight, self.directions, self.candidates = layer.weight.detach(), *preview
        self.whole = packed(layer, int8=int8)
        with torch.no_grad():
            small = nn.Linear(self.directions.shape[1], len(self.weight), bias=False, device="meta")
            small.weight = nn.Parameter(self.weight @ self.directions, requires_grad=False)
            self.first = packed(small, int8=True)

    def forward(self, features: Tensor) -> Tensor:
        """(..., dim) -> (..., tokens); of many rows all in full."""
        rows = features.reshape(-1, features.shape[-1])
        if len(rows) > MOST_ROWS:
            return self.whole(features)
        logits = fill_candidates(self.first(rows @ self.directions), rows, self.weight, self.candidates)
        return logits.view(*features.shape[:-1], -1)
