"""Checkpoints with matrices of 16 bits: half the file, and a decoder that reads half as much (`modules.packed`).

Where this package reads them, they are float32 again. fairseq alone copies weights of any type into its models.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

KEY = "half_precision"  # beside "model"


def halved(checkpoint: Mapping, path) -> dict:
    """The checkpoint with all float32 weights of two dimensions and more rounded to float16: 11 binary digits.

    Biases and norms stay as they are: they are few.

    Args:
        path: of the checkpoint, for errors.

    Raises:
        ValueError: a weight is too large for float16; names the first.
    """
    model = {name: _half(weight, f"{path}: {name}") for name, weight in checkpoint["model"].items()}
    return {**checkpoint, "model": model, KEY: 1}


def in_single(checkpoint: Mapping) -> dict:
    """The same numbers in float32."""
    model = {
        name: value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value
        for name, value in checkpoint["model"].items()
    }
    return {**{key: value for key, value in checkpoint.items() if key != KEY}, "model": model}


def _half(weight: object, where: str) -> object:
    if not isinstance(weight, Tensor) or weight.dtype != torch.float32 or weight.dim() < 2:
        return weight
    largest = float(weight.abs().amax()) if weight.numel() else 0.0
    if not largest <= torch.finfo(torch.float16).max:
        raise ValueError(f"{where}: found a weight of {largest:g}, expected at most 65504 for float16")
    return weight.half()
