"""Token pruning: which frames of an utterance stay, chosen by importance; or merging of similar frames.

Everything here takes and returns tensors. ``lengths`` and ``counts`` are lists of Python integers (valid
frames before and after, by utterance): they are known before the forward pass begins, so that no layer has to
wait for the device to learn a shape, and `to_device` sends them there without waiting either.
"""

import math
from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

# received: attention that the frame receives. norm: of the residual stream. uniform: evenly spaced.
# random: drawn anew by layer, update and utterance length, so utterances of one length keep the same places.
# merge: similar frames become their mean, instead of dropping any.
CRITERIA = ("received", "random", "uniform", "norm", "merge")

# rows of the softmax that are held at once when attention is scored: memory grows linearly with the frames
QUERY_BLOCK = 128


def keep_counts(lengths: Sequence[int], keep_ratio: float, minimum: int = 1) -> list[int]:
    """``ceil(keep_ratio * length)`` of each utterance's own length, at least ``min(minimum, length)``."""
    # 0.1 * 30 is 3.0000000000000004 in floating point: a count must not grow by rounding
    return [min(n, max(minimum, math.ceil(keep_ratio * n - 1e-6))) for n in lengths]


def to_device(values, device: torch.device) -> Tensor:
    """A list, an array or a CPU tensor on the device; the host does not wait for the copy."""
    values = torch.as_tensor(values)
    if device.type == "cuda":  # a copy from memory that is not pinned would wait
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def padding_mask_of(lengths: Sequence[int], frames: int, device: torch.device) -> Optional[Tensor]:
    """(batch, frames), True on padding; None when nothing is padded."""
    if all(n == frames for n in lengths):
        return None
    return torch.arange(frames, device=device) >= to_device(lengths, device).unsqueeze(1)


def attention_bias(
    padding_mask: Optional[Tensor], sizes: Optional[Tensor], dtype: torch.dtype
) -> Optional[Tensor]:
    """Added to attention logits, (batch, 1, 1, frames) or None: -inf on padding, log size on merged frames.

    A frame that stands for n frames attracts the attention of n (ToMe, arXiv 2210.09461, equation 1).
    """
    if padding_mask is None and sizes is None:
        return None
    if sizes is not None:
        bias = sizes.float().clamp(min=1e-9).log()
    else:
        bias = torch.zeros(padding_mask.shape, device=padding_mask.device)
    if padding_mask is not None:
        bias = bias.masked_fill(padding_mask, -math.inf)
    return bias.to(dtype)[:, None, None]


def attention_and_received(
    query: Tensor,
    key: Tensor,
    value: Optional[Tensor] = None,
    padding_mask: Optional[Tensor] = None,
    block: int = QUERY_BLOCK,
    bias: Optional[Tensor] = None,
) -> tuple[Optional[Tensor], Tensor]:
    """Softmax attention in blocks of queries, and how much of it each frame receives.

    Args:
        query, key, value: (batch, heads, frames, head_dim), not scaled. Without a value only the scores are
            computed.
        padding_mask: (batch, frames), True on padding.
        block: queries at a time; memory is batch * heads * block * frames.
        bias: (batch, heads, frames, frames), added to the logits.

    Returns:
        attention output (batch, heads, frames, head_dim), None without a value; and the attention received
        (batch, frames), float32: averaged over heads, summed over the valid queries, 0 on padding.
    """
    # autocast would take the sums below in half precision
    with torch.autocast(query.device.type, enabled=False):
        return _attention_and_received(query, key, value, padding_mask, block, bias)


def _attention_and_received(
    query: Tensor,
    key: Tensor,
    value: Optional[Tensor],
    padding_mask: Optional[Tensor],
    block: int,
    logit_bias: Optional[Tensor],
) -> tuple[Optional[Tensor], Tensor]:
    batch, heads, frames, head_dim = query.shape
    # scaled once here, not in every block
    query = query * head_dim**-0.5
    key = key.transpose(2, 3)
    bias = attention_bias(padding_mask, None, query.dtype)
    weight = (
        torch.ones(batch, frames, device=query.device) if padding_mask is None else (~padding_mask).float()
    )
    weight = weight / heads
    received = torch.zeros(batch, frames, device=query.device)
    outputs = []
    for start in range(0, frames, block):
        logits = query[:, :, start : start + block] @ key
        if bias is not None:
            logits += bias
        if logit_bias is not None:
            logits += logit_bias[:, :, start : start + block]
        # in float32 also under fp16 and bf16, whose few digits would make importances tie
        attention = logits.softmax(-1, dtype=torch.float32)
        # summed over queries: the published snippet sums over keys, which gives 1 for every frame
        rows = weight[:, None, start : start + block].repeat(1, 1, heads)
        received += torch.bmm(rows, attention.flatten(1, 2)).squeeze(1).float()
        if value is not None:
            outputs.append(attention.to(value.dtype) @ value)
    return torch.cat(outputs, dim=2) if outputs else None, received


def random_scores(lengths: Sequence[int], frames: int, seed: int, device: torch.device) -> Tensor:
    """(batch, frames) pseudo-random scores of (seed, utterance length, frame), whatever the batch.

    Utterances of the same length have the same scores: nothing else tells them apart in every batch.
    """
    value = torch.arange(frames, device=device) + to_device(lengths, device).unsqueeze(1) * 1_000_003
    value = value + seed * 7_368_787 % 2**62  # of 64 bits
    for _ in range(2):  # an integer hash: multiply and fold the high bits down
        value = ((value ^ (value >> 15)) * 2_246_822_519) & 0xFFFFFFFF
    return (value ^ (value >> 16)).float()


def top_frames(
    scores: Tensor, lengths: Sequence[int], counts: Sequence[int]
) -> tuple[Tensor, Optional[Tensor]]:
    """The highest-scored ``counts[i]`` of the first ``lengths[i]`` frames; the earlier one where scores tie.

    Args:
        scores: (batch, frames).

    Returns:
        indices (batch, max(counts)) in temporal order, and the padding mask of that shape (None when all
        counts are equal). On padding the index is 0.
    """
    frames = scores.size(1)
    padding_mask = padding_mask_of(lengths, frames, scores.device)
    if padding_mask is not None:
        scores = scores.masked_fill(padding_mask, -math.inf)
    kept = max(counts)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :kept]
    new_padding = padding_mask_of(counts, kept, scores.device)
    if new_padding is None:
        return order.sort(dim=1).values, None
    # padding sorts after every frame
    indices = order.masked_fill(new_padding, frames).sort(dim=1).values
    return indices.masked_fill(new_padding, 0), new_padding


def uniform_frames(
    lengths: Sequence[int], counts: Sequence[int], device: torch.device
) -> tuple[Tensor, Optional[Tensor]]:
    """Evenly spaced frames, the middle of each of ``counts[i]`` equal stretches; returns as `top_frames`."""
    kept = max(counts)
    steps = torch.arange(kept, device=device).unsqueeze(0)
    length = to_device(lengths, device).unsqueeze(1)
    count = to_device(counts, device).unsqueeze(1)
    indices = (2 * steps + 1) * length // (2 * count)
    padding = padding_mask_of(counts, kept, device)
    return (indices if padding is None else indices.masked_fill(padding, 0)), padding


def gather_frames(x: Tensor, indices: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
    """Frames of ``x`` (batch, frames, ...) at ``indices`` (batch, kept); zero on padding."""
    shape = indices.shape + (1,) * (x.dim() - 2)
    out = x.gather(1, indices.view(shape).expand(*indices.shape, *x.shape[2:]))
    return out if padding_mask is None else out.masked_fill(padding_mask.view(shape), 0)


def merge_frames(
    x: Tensor,
    metric: Tensor,
    sizes: Optional[Tensor],
    lengths: Sequence[int],
    counts: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Optional[Tensor]]:
    """Bipartite soft matching (ToMe, arXiv 2210.09461, section 3): similar frames become their mean.

    Frames at even places each find the most similar frame at an odd place; the ``lengths[i] - counts[i]``
    pairs of highest cosine similarity are merged into the odd one, averaged by size. One call can at most
    halve an utterance.

    Args:
        x: (batch, frames, dim).
        metric: (batch, frames, metric_dim), what similarity is measured on (the attention keys).
        sizes: (batch, frames), how many original frames each stands for; None is one each.

    Returns:
        merged frames (batch, max(counts), dim) in temporal order, their sizes (batch, max(counts)), the
        index in ``x`` that each has the place of (batch, max(counts)), and the padding mask (None when counts
        are equal).

    Raises:
        ValueError: an utterance would have to shrink below half.
    """
    batch, frames, dim = x.shape
    for length, count in zip(lengths, counts):
        if count < length - length // 2:
            raise ValueError(f"merging: {length} frames to {count}, but one layer can at most halve them")
    device = x.device
    if sizes is None:
        sizes = torch.ones(batch, frames, device=device)
    if frames == 1 or all(n == k for n, k in zip(lengths, counts)):
        indices = torch.arange(frames, device=device).expand(batch, frames)
        return x, sizes, indices, padding_mask_of(lengths, frames, device)
    padding_mask = padding_mask_of(lengths, frames, device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        metric = F.normalize(metric.float(), dim=-1)
        similarity = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
        if padding_mask is not None:
            similarity = similarity.masked_fill(padding_mask[:, None, 1::2], -math.inf)
        best, partner = similarity.max(dim=-1)  # (batch, even frames)
        if padding_mask is not None:
            best = best.masked_fill(padding_mask[:, ::2], -math.inf)
        rank = best.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        merged_away = to_device([n - k for n, k in zip(lengths, counts)], device)
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
