"""A constraint on the size of a model as a term of its loss (Wang et al. 2020, arXiv 1910.04732, section 3.2)."""

import torch
from torch import Tensor, nn


class Multipliers(nn.Module):
    """The two Lagrange multipliers, which begin at 0 and stay in float32 under `model.half()`.

    A model descends its loss, multipliers ascend it: the gradient of what a call gives comes back with its sign
    turned, so that one optimizer serves both.
    """

    def __init__(self):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(2))

    def _apply(self, fn, *args, **kwargs):
        # moves to another device, but never to another precision
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), *args, **kwargs)

    def forward(self) -> Tensor:
        """(2,): lambda1 and lambda2."""
        return 2 * self.values.detach() - self.values


def lagrangian(sparsity: Tensor, target: float, multipliers: Tensor) -> Tensor:
    """``lambda1 (s - t) + lambda2 (s - t)^2`` of a 0-dim sparsity, its target, and multipliers (2,)."""
    gap = sparsity.float() - target
    return multipliers[0] * gap + multipliers[1] * gap.square()


def warmed_up_target(target: float, update: int, warmup_updates: int) -> float:
    """The sparsity aimed at in a training update: rises linearly from 0 at update 0 to ``target``."""
    return target if update >= warmup_updates else target * update / warmup_updates
