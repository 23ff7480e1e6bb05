"""What all cuts of a checkpoint share."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def without_training(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without optimizer and average of weights, which do not fit a model that was cut."""
    new = {**checkpoint, "last_optimizer_state": None}
    new["extra_state"] = {k: v for k, v in (checkpoint.get("extra_state") or {}).items() if k != "ema"}
    return new


def count_weights(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """(parameters, bytes) of a state dict: every tensor of numbers once, fixed positions among them.

    Single numbers are none: versions and counters.
    """
    tensors = {t.data_ptr(): t for t in weights.values() if t.is_floating_point() and t.numel() > 1}
    return (
        sum(tensor.numel() for tensor in tensors.values()),
        sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    )
