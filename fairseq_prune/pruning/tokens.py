"""Token pruning: how many frames of an utterance stay, and how the ones that were chosen are taken.

Everything here takes and returns tensors. ``lengths`` and ``counts`` are lists of Python integers (valid
frames before and after, by utterance): they are known before the forward pass begins, so that no layer has to
wait for the device to learn a shape, and `to_device` sends them there without waiting either. `Lengths` are such
lists that were sent together, in one copy.
"""

import math
from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor


def keep_counts(lengths: Sequence[int], keep_ratio: float, minimum: int = 1) -> list[int]:
    """``ceil(keep_ratio * length)`` of each utterance's own length, at least ``min(minimum, length)``."""
    # 0.1 * 30 is 3.0000000000000004 in floating point: a count must not grow by rounding
    return [min(n, max(minimum, math.ceil(keep_ratio * n - 1e-6))) for n in lengths]


def to_device(values, device: torch.device) -> Tensor:
    """A list, an array or a CPU tensor on the device; the host does not wait for the copy."""
    if isinstance(values, Lengths):
        return values.on_device
    values = torch.as_tensor(values)
    if device.type == "cuda" and not is_traced():  # a copy from memory that is not pinned would wait
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def is_traced() -> bool:
    """Whether operations are recorded, where pinned memory has no meaning, and not only carried out."""
    compiler = getattr(torch, "compiler", None)  # torch 2.0 has none
    return torch.jit.is_tracing() or (compiler is not None and compiler.is_compiling())


def is_exported() -> bool:
    """Whether a graph is made of operations, for other shapes than those of now."""
    compiler = getattr(torch, "compiler", None)
    return hasattr(compiler, "is_exporting") and compiler.is_exporting()


class Lengths(list):
    """Valid frames of each utterance, as integers and, in `on_device`, as the tensor (batch,) of these."""

    def __init__(self, values: Sequence[int], on_device: Tensor):
        super().__init__(values)
        self.on_device = on_device

    @classmethod
    def send(cls, rows: Sequence[Sequence[int]], device: torch.device) -> "list[Lengths]":
        """Those of several stages, each of the same batch, in one copy to the device."""
        sent = to_device([list(row) for row in rows], device)
        return [cls(row, on_device) for row, on_device in zip(rows, sent)]


def shortened(lengths: Sequence[int], by: Sequence[int]) -> list[int]:
    """The difference of two lists; of `Lengths` both on the host and on the device."""
    values = [n - fewer for n, fewer in zip(lengths, by)]
    if isinstance(lengths, Lengths) and isinstance(by, Lengths):
        return Lengths(values, lengths.on_device - by.on_device)
    return values


def padding_mask_of(lengths: Sequence[int], frames: int, device: torch.device) -> Optional[Tensor]:
    """(batch, frames), True on padding; None when nothing is padded."""
    if all(n == frames for n in lengths):
        return None
    return torch.arange(frames, device=device) >= to_device(lengths, device).unsqueeze(1)


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


def gather_frames(x: Tensor, indices: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
    """Frames of ``x`` (batch, frames, ...) at ``indices`` (batch, kept); zero on padding."""
    shape = indices.shape + (1,) * (x.dim() - 2)
    out = x.gather(1, indices.view(shape).expand(*indices.shape, *x.shape[2:]))
    return out if padding_mask is None else out.masked_fill(padding_mask.view(shape), 0)
