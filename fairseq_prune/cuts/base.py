"""What all cuts of a checkpoint share."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fairseq_prune.checkpoints.sparse import STATE

# fairseq's moving average of the weights (--store-ema), and its float32 copy (--ema-fp32)
AVERAGES = ("ema", "ema_fp32_params")


def without_training(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without optimizer, average of weights and state of magnitude pruning: they do not fit what is cut."""
    new = {**checkpoint, "last_optimizer_state": None}
    new["extra_state"] = {k: v for k, v in (checkpoint.get("extra_state") or {}).items() if k not in AVERAGES}
    if STATE in new["model"]:  # zeros stay zeros, but nothing prunes any more
        new["model"] = {name: weight for name, weight in new["model"].items() if name != STATE}
        new["cfg"] = {**new["cfg"], "model": {**new["cfg"]["model"], "prune_sparsity": 0.0}}
    return new


def count_weights(weights: Mapping[str, Tensor]) -> tuple[int, int]:
    """(parameters, bytes) of a state dict: every tensor of numbers once, fixed positions among them.

    Single numbers are none: versions and counters.
    """
    tensors = [value for value in weights.values() if isinstance(value, Tensor)]  # not the state of pruning
    tensors = {t.data_ptr(): t for t in tensors if t.is_floating_point() and t.numel() > 1}
    return (
        sum(tensor.numel() for tensor in tensors.values()),
        sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
    )
