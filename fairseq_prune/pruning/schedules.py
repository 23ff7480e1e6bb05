"""Keep ratios by encoder layer and by training update, and sparsities by training update.

A keep ratio is the share of frames that stays, a sparsity the share of weights that is zero.
"""

import math
from collections.abc import Sequence
from typing import Optional

SCHEDULES = ("constant", "linear", "cosine")
SPARSITY_SCHEDULES = ("linear", "cubic")


def check_keep_ratio(ratio: float, name: str = "keep ratio") -> float:
    """Return ``ratio``; raise ValueError unless it lies in (0, 1]."""
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f"{name}: found {ratio}, expected a share of frames to keep in (0, 1]")
    return ratio


def layer_keep_ratios(
    num_layers: int,
    keep_ratio: float = 1.0,
    start_layer: int = 1,
    schedule: str = "constant",
    final_keep_ratio: Optional[float] = None,
    explicit: Optional[Sequence[float]] = None,
) -> list[float]:
    """The share of its own input frames that each encoder layer keeps.

    Args:
        num_layers: transformer layers of the encoder.
        keep_ratio: ratio of layer ``start_layer``, and of every later one if the schedule is constant.
        start_layer: the first layer that prunes; layers count from 1.
        schedule: how the ratio goes from ``keep_ratio`` at ``start_layer`` to ``final_keep_ratio`` at the
            last layer: "constant", "linear" or "cosine" (half a cosine period, flat at both ends).
        explicit: a ratio for every layer; overrides all other arguments.

    Returns:
        ``num_layers`` ratios, 1.0 for a layer that does not prune.

    Raises:
        ValueError: a ratio outside (0, 1], an unknown schedule, a start layer or list that does not fit.
    """
    if explicit:
        if len(explicit) != num_layers:
            raise ValueError(
                f"explicit keep ratios: found {len(explicit)}, expected {num_layers}, one a layer"
            )
        return [check_keep_ratio(ratio, f"keep ratio of layer {i}") for i, ratio in enumerate(explicit, 1)]
    check_keep_ratio(keep_ratio)
    if schedule not in SCHEDULES:
        raise ValueError(f"keep schedule: found {schedule!r}, expected one of {', '.join(SCHEDULES)}")
    if not 1 <= start_layer <= num_layers:
        raise ValueError(
            f"first pruning layer: found {start_layer}, expected 1 to {num_layers}, the encoder's layers"
        )
    if schedule == "constant":
        last = keep_ratio
    elif final_keep_ratio is None:
        raise ValueError(f"a {schedule} keep schedule needs the final keep ratio (that of the last layer)")
    else:
        last = check_keep_ratio(final_keep_ratio, "final keep ratio")
    steps = num_layers - start_layer
    ratios = [1.0] * (start_layer - 1)
    for step in range(steps + 1):
        progress = step / steps if steps else 1.0
        if schedule == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        ratios.append(keep_ratio + (last - keep_ratio) * progress)
    return ratios


def warmed_up_ratio(keep_ratio: float, update: int, warmup_updates: int) -> float:
    """The ratio at a training update: falls linearly from 1.0 at update 0 to ``keep_ratio``."""
    if warmup_updates <= 0 or update >= warmup_updates:
        return keep_ratio
    return 1.0 - (1.0 - keep_ratio) * update / warmup_updates


def risen_sparsity(progress: float, target: float, initial: float = 0.0, schedule: str = "linear") -> float:
    """The sparsity when a share ``progress`` of the time from ``initial`` to ``target`` has passed.

    Args:
        progress: from 0 to 1.
        schedule: "linear", or "cubic", which rises most at the beginning (Zhu and Gupta 2017, arXiv 1710.01878, eq. 1).

    Returns:
        at least ``initial``, never above ``target``, and ``target`` itself at the end.

    Raises:
        ValueError: an unknown schedule.
    """
    if schedule not in SPARSITY_SCHEDULES:
        raise ValueError(
            f"sparsity schedule: found {schedule!r}, expected one of {', '.join(SPARSITY_SCHEDULES)}"
        )
    left = max(0.0, 1.0 - progress) ** {"linear": 1, "cubic": 3}[schedule]
    return min(target, max(initial, target + (initial - target) * left))
