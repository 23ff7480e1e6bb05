"""The output projection of a decoder that looks at the likeliest tokens alone in full (`pruning.output_preview`)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_prune.modules.packed import packed
from fairseq_prune.pruning.output_preview import fill_candidates

CANDIDATES = 128  # that are computed in full unless it is said otherwise
MOST_ROWS = 64  # of a step; one product with all weights is as fast for more


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
        weight: (tokens, dim) float32 of the output projection; it is not copied.
        preview: what to look at.
    """

    def __init__(self, weight: Tensor, preview: OutputPreview):
        super().__init__()
        self.weight, self.directions, self.candidates = weight.detach(), *preview
        with torch.no_grad():
            small = nn.Linear(self.directions.shape[1], len(weight), bias=False, device="meta")
            small.weight = nn.Parameter(self.weight @ self.directions, requires_grad=False)
            self.first = packed(small, int8=True)

    def forward(self, features: Tensor) -> Tensor:
        """(..., dim) -> (..., tokens); of many rows all exact."""
        rows = features.reshape(-1, features.shape[-1])
        if len(rows) > MOST_ROWS:
            return F.linear(features, self.weight)
        logits = fill_candidates(self.first(rows @ self.directions), rows, self.weight, self.candidates)
        return logits.view(*features.shape[:-1], -1)
