"""Merging of similar frames, instead of dropping any (ToMe, Bolya et al. 2022, arXiv 2210.09461)."""

import math
from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .tokens import gather_frames, padding_mask_of, to_device, top_frames


def merge_frames(
    x: Tensor,
    metric: Tensor,
    sizes: Optional[Tensor],
    lengths: Sequence[int],
    counts: Sequence[int],
    competing: Optional[Sequence[int]] = None,
) -> tuple[Tensor, Tensor, Tensor, Optional[Tensor]]:
    """Bipartite soft matching (ToMe, arXiv 2210.09461, section 3): similar frames become their mean.

    Frames at even places each find the most similar frame at an odd place; the ``lengths[i] - counts[i]``
    pairs of highest cosine similarity are merged into the odd one, averaged by size. One call can at most
    halve an utterance.

    Args:
        x: (batch, frames, dim).
        metric: (batch, frames, metric_dim), what similarity is measured on (the attention keys).
        sizes: (batch, frames), how many original frames each stands for; None is one each.
        competing: only so many of the first frames take part, and the others stay; None: all.

    Returns:
        merged frames (batch, max(counts), dim) in temporal order, their sizes (batch, max(counts)), the
        index in ``x`` that each has the place of (batch, max(counts)), and the padding mask (None when counts
        are equal).

    Raises:
        ValueError: an utterance would have to shrink below half.
    """
    batch, frames, dim = x.shape
    competing = lengths if competing is None else competing
    for length, count, part in zip(lengths, counts, competing):
        if length - count > part // 2:
            raise ValueError(f"merging: {length} frames to {count}, but one layer can at most halve them")
    device = x.device
    if sizes is None:
        sizes = torch.ones(batch, frames, device=device)
    if frames == 1 or all(n == k for n, k in zip(lengths, counts)):
        indices = torch.arange(frames, device=device).expand(batch, frames)
        return x, sizes, indices, padding_mask_of(lengths, frames, device)
    absent = padding_mask_of(competing, frames, device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        metric = F.normalize(metric.float(), dim=-1)
        similarity = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
        if absent is not None:
            similarity = similarity.masked_fill(absent[:, None, 1::2], -math.inf)
        best, partner = similarity.max(dim=-1)  # (batch, even frames)
        if absent is not None:
            best = best.masked_fill(absent[:, ::2], -math.inf)
        rank = best.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        merged_away = to_device(lengths, device) - to_device(counts, device)
        merges = rank < merged_away.unsqueeze(1)
        places = torch.arange(frames, device=device).repeat(batch, 1)
        even = places[:, ::2]
        # where each frame goes: to itself, or from an even place to its odd partner
        places[:, ::2] = torch.where(merges, 2 * partner + 1, even)
        leaves = torch.zeros(batch, frames, dtype=torch.bool, device=device)
        leaves[:, ::2] = merges
        indices, padding = top_frames((~leaves).float(), lengths, counts)
    total = torch.zeros_like(sizes).scatter_add_(1, places, sizes)
    weighted = x * sizes.unsqueeze(-1).to(x.dtype)
    summed = torch.zeros_like(x).scatter_add_(1, places.unsqueeze(-1).expand(-1, -1, dim), weighted)
    merged = gather_frames(summed / total.clamp(min=1).unsqueeze(-1).to(x.dtype), indices, padding)
    return merged, gather_frames(total, indices, padding), indices, padding
