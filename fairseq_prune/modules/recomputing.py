"""Memory for time: activations that are computed again in the backward pass instead of being kept (Chen et al. 2016,
arXiv 1604.06174)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def run(function: Callable[..., Any], x: Tensor) -> Any:
    """``function(x)``: the plain way."""
    return function(x)


def recompute(function: Callable[..., Any], x: Tensor) -> Any:
    """``function(x)``, of which nothing but ``x`` is kept; it runs again, with the same draws, in the backward pass."""
    return checkpoint(function, x, use_reentrant=False) if torch.is_grad_enabled() else function(x)
