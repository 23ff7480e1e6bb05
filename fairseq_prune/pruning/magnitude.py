"""Unstructured magnitude masks: which weights of a set of parameters stay.

Masks are boolean tensors by parameter name, True where a weight stays. Thresholds come from histograms of the bits
of the magnitudes, which sort as the magnitudes do: two passes over the weights, one parameter at a time, give the
exact threshold of float32 without a sort and without a copy of the weights.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Optional

import torch
from torch import Tensor, nn

from .scores import random_scores

SCOPES = ("global", "layer", "matrix", "row")
# in every transformer layer the projections of self-attention and the feed-forward block (arXiv 2106.05933, sec. 3)
TRANSFORMER_LAYERS = r"(.*\.)?layers\.\d+\.(self_attn\.[qkv]_proj|self_attn\.out_proj|fc1|fc2)\.(weight|bias)"

Masks = dict[str, Tensor]

_LAYER = re.compile(r"(.*\.)?layers\.\d+(?=\.)")
_BITS = 16  # of the magnitudes that one pass looks at


def check_sparsity(sparsity: float, name: str = "sparsity") -> float:
    """Return ``sparsity``; raise ValueError unless it lies in [0, 1)."""
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"{name}: found {sparsity}, expected a share of weights to set to zero in [0, 1)")
    return sparsity


def matching_parameters(model: nn.Module, pattern: str = TRANSFORMER_LAYERS) -> dict[str, nn.Parameter]:
    """The parameters whose whole name the regular expression ``pattern`` matches, in the model's order.

    Raises:
        ValueError: no regular expression, or one that matches no parameter.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r}: no regular expression ({error})") from None
    found = {name: p for name, p in model.named_parameters() if compiled.fullmatch(name)}
    if not found:
        example = next((name for name, _ in model.named_parameters()), "none")
        raise ValueError(f"pattern {pattern!r} matches no parameter of the model; one of them is {example}")
    return found


def magnitude_masks(weights: Mapping[str, Tensor], sparsity: float, scope: str = "global") -> Masks:
    """Masks that leave out the weights of the smallest magnitude; given scores of weights, those of the smallest score.

    Of n weights that compete, ``round(sparsity * n)`` are left out, as of ``torch.nn.utils.prune.global_unstructured``
    with ``L1Unstructured``; of equal magnitudes, those that come first.

    Args:
        weights: tensors of any shapes, float32 or less precise.
        scope: the weights that compete: "global" all of them, "layer" those of a transformer layer, "matrix"
            those of a parameter, "row" those of an output, ``weight[i]`` (Wanda, arXiv 2306.11695); a bias is one row.

    Returns:
        for each name a boolean tensor of the weight's shape and device, True where the weight stays.

    Raises:
        ValueError: a sparsity outside [0, 1), or an unknown scope.
    """
    check_sparsity(sparsity)
    masks: Masks = {}
    if scope == "row":
        return {
            name: _smallest_of_rows_left_out(weight.detach(), sparsity) for name, weight in weights.items()
        }
    for group in competing(weights, scope):
        tensors = [weights[name].detach() for name in group]
        masks.update(zip(group, _smallest_left_out(tensors, sparsity)))
    return {name: masks[name] for name in weights}


def random_masks(weights: Mapping[str, Tensor], sparsity: float, seed: int, scope: str = "global") -> Masks:
    """Masks that leave out ``round(sparsity * n)`` of n weights by chance; the same for a seed on any device.

    Raises:
        ValueError: as `magnitude_masks`.
    """
    masks = magnitude_masks(random_scores(weights, seed), sparsity, scope)
    return {name: mask.to(weights[name].device) for name, mask in masks.items()}


def competing(names: Iterable[str], scope: str) -> list[list[str]]:
    """Groups of names whose weights compete for staying, see `magnitude_masks`."""
    if scope not in SCOPES:
        raise ValueError(f"scope: found {scope!r}, expected one of {', '.join(SCOPES)}")
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = _LAYER.match(name)
        key = {"global": "", "matrix": name, "layer": layer.group() if layer else name}[scope]
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _smallest_left_out(tensors: list[Tensor], sparsity: float) -> list[Tensor]:
    left_out = round(sparsity * sum(tensor.numel() for tensor in tensors))
    if left_out == 0:
        return [torch.ones_like(tensor, dtype=torch.bool) for tensor in tensors]
    threshold, ties = _kth_smallest(tensors, left_out)
    masks = []
    for tensor in tensors:
        bits = _magnitude_bits(tensor)
        equal = (bits == threshold).view(-1)
        place = equal.cumsum(0, dtype=torch.int32)  # among the equals, from 1
        masks.append((bits > threshold) | (equal & (place > ties)).view(bits.shape))
        ties = (ties - equal.count_nonzero()).clamp(min=0)
    return masks


def _smallest_of_rows_left_out(tensor: Tensor, sparsity: float) -> Tensor:
    rows = _magnitude_bits(tensor).view(len(tensor) if tensor.dim() > 1 else 1, -1)
    order = rows.argsort(dim=1, stable=True)[:, : round(sparsity * rows.size(1))]
    return torch.ones_like(rows, dtype=torch.bool).scatter_(1, order, False).view(tensor.shape)


def _magnitude_bits(tensor: Tensor) -> Tensor:
    """Magnitudes as int32 in the same order: without the sign, the bits of a float grow with it."""
    return tensor.float().abs().contiguous().view(torch.int32)


def _kth_smallest(tensors: list[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The bits of the k-th smallest magnitude, and how many of its equals are among the k smallest: (1,) each.

    Nothing here waits for the device: prefix and digits stay on it.
    """
    device, size = tensors[0].device, 2**_BITS
    left = torch.full((1,), k, device=device)
    prefix: Optional[Tensor] = None
    for shift in (_BITS, 0):
        counts = torch.zeros(size, dtype=torch.long, device=device)
        for tensor in tensors:
            bits = _magnitude_bits(tensor).view(-1)
            digits = (bits >> shift) & (size - 1)
            if prefix is not None:  # others count in one more place
                digits = digits.masked_fill((bits >> _BITS) != prefix.to(bits.device), size)
            counts += _histogram(digits, size + 1)[:size].to(device)
        cumulated = counts.cumsum(0)
        digit = torch.searchsorted(cumulated, left)
        left = left - cumulated.gather(0, digit) + counts.gather(0, digit)
        prefix = digit if prefix is None else prefix << _BITS | digit
    return prefix, left


def _histogram(digits: Tensor, size: int) -> Tensor:
    """How often each of the numbers below ``size`` is among ``digits`` (n,): (size,) int64."""
    if digits.device.type == "cpu":
        return torch.bincount(digits, minlength=size)
    return _scattered(digits, size)  # bincount waits for a GPU to tell the largest one


def _scattered(digits: Tensor, size: int) -> Tensor:
    counts = torch.zeros(size, dtype=torch.long, device=digits.device)
    return counts.scatter_add_(0, digits.long(), torch.ones_like(digits, dtype=torch.long))


def apply_masks(weights: Mapping[str, Tensor], masks: Masks) -> None:
    """Set to zero, in place, what ``masks`` leave out, were it infinite or not a number."""
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].masked_fill_(~mask, 0.0)


def check_masks(weights: Mapping[str, Tensor], masks: Masks, where="the mask") -> None:
    """Refuse masks of other parameters.

    Raises:
        ValueError: a mask without weight or of another shape; names ``where`` it is from.
    """
    for name, mask in masks.items():
        if name not in weights:
            raise ValueError(
                f"{where}: has {name}, which the model has not, expected {next(iter(weights))}, ..."
            )
        if mask.shape != weights[name].shape:
            raise ValueError(
                f"{where}: {name} has the shape {tuple(mask.shape)}, expected {tuple(weights[name].shape)}"
            )


def sparsity_of(masks: Masks) -> float:
    """The share of weights that masks leave out."""
    return float(left_out_share(masks))


def left_out_share(masks: Masks) -> Tensor:
    """`sparsity_of`, on the device, for which nothing waits: ()."""
    return 1 - _count(masks.values()) / sum(mask.numel() for mask in masks.values())


def overlap(first: Masks, second: Masks) -> float:
    """Intersection over union of the weights that two masks keep, 1 for the same masks.

    Raises:
        ValueError: masks of other parameters.
    """
    return float(overlap_share(first, second))


def overlap_share(first: Masks, second: Masks) -> Tensor:
    """`overlap`, on the device: ()."""
    pairs = _pairs(first, second)
    either, both = _count(a | b for a, b in pairs), _count(a & b for a, b in pairs)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def agreement(first: Masks, second: Masks) -> float:
    """The share of weights that both masks keep, or both leave out.

    Raises:
        ValueError: masks of other parameters.
    """
    pairs = _pairs(first, second)
    return float(_count(a == b for a, b in pairs)) / sum(a.numel() for a, _ in pairs)


def _pairs(first: Masks, second: Masks) -> list[tuple[Tensor, Tensor]]:
    check_masks(first, second, "the second mask")
    check_masks(second, first, "the first mask")
    return [(mask, second[name].to(mask.device)) for name, mask in first.items()]


def revived(before: Masks, after: Masks) -> float:
    """Of the weights that ``before`` leaves out, the share that ``after`` keeps."""
    return float(revived_share(before, after))


def revived_share(before: Masks, after: Masks) -> Tensor:
    """`revived`, on the device: ()."""
    out = _count(~mask for mask in before.values())
    back = _count(~mask & after[name].to(mask.device) for name, mask in before.items())
    return back / out.clamp(min=1)


def _count(masks: Iterable[Tensor]) -> Tensor:
    """How many are True in all masks, on the device of the first: () float64, which counts exactly."""
    counts = [mask.count_nonzero() for mask in masks]
    return sum(count.to(counts[0].device) for count in counts).double()


def pack_masks(masks: Masks) -> dict:
    """Masks as one bit a weight: {name: {"shape": [...], "bits": uint8 tensor on the mask's device}}."""
    packed = {}
    for name, mask in masks.items():
        flat = mask.detach().view(-1).to(torch.uint8)
        rows = nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
        bits = rows << torch.arange(8, dtype=torch.uint8, device=mask.device)
        packed[name] = {"shape": list(mask.shape), "bits": bits.sum(1, dtype=torch.uint8)}
    return packed


def unpack_masks(packed: Mapping[str, Mapping]) -> Masks:
    """What `pack_masks` packed.

    Raises:
        ValueError: not as it was packed.
    """
    masks = {}
    for name, entry in packed.items():
        try:
            shape, bits = torch.Size(entry["shape"]), entry["bits"]
            shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
            flat = ((bits[:, None] >> shifts) & 1).bool().view(-1)[: shape.numel()]
            masks[name] = flat.view(shape)
        except (KeyError, TypeError, RuntimeError, AttributeError):
            raise ValueError(f"mask of {name}: expected its shape, and a bit for each weight") from None
    return masks
