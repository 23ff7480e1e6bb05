"""Gates that learn what to prune: the hard concrete distribution (Louizos et al. 2018, arXiv 1712.01312)."""

import math

import torch
from torch import Tensor, nn


class HardConcrete(nn.Module):
    """``size`` independent gates with values in [0, 1], of which a share is exactly 0.

    A sigmoid of logistic noise around ``log_alpha`` is stretched to (-stretch, 1 + stretch) and clipped to
    [0, 1] (equations 10 and 11). `draw` gives new values at every call, for training. `evaluation_mask` gives the
    deterministic values of DPHuBERT (arXiv 2305.17651): as many zeros as are expected, of the smallest gates, and
    ``sigmoid(0.8 log_alpha / temperature)`` for the others. Nothing is cached, so that nothing goes stale.

    The parameter stays in float32 under `model.half()`, where ``1 - eps`` would be 1.

    Args:
        size: gates.
        initial_drop: drop probability that the mean of ``log_alpha`` stands for, in (0, 1).
        initial_std: of the normal noise around that mean.
        temperature: beta of the paper. stretch: -gamma, and zeta - 1. eps: noise is uniform in (eps, 1 - eps).
    """

    def __init__(
        self,
        size: int,
        initial_drop: float = 0.5,
        initial_std: float = 0.01,
        temperature: float = 2 / 3,
        stretch: float = 0.1,
        eps: float = 1e-6,
    ):
        super().__init__()
        if not 0 < initial_drop < 1:
            raise ValueError(
                f"initial drop of a gate: found {initial_drop}, expected a number between 0 and 1"
            )
        self.temperature = temperature
        self.stretch = stretch
        self.eps = eps
        mean = math.log(1 - initial_drop) - math.log(initial_drop)
        self.log_alpha = nn.Parameter(torch.empty(size).normal_(mean, initial_std))

    def _apply(self, fn, *args, **kwargs):
        # moves to another device, but never to another precision
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), *args, **kwargs)

    def draw(self) -> Tensor:
        """(size,) random values, float32, with gradients for ``log_alpha`` (equations 10 and 11)."""
        noise = torch.empty_like(self.log_alpha).uniform_(self.eps, 1 - self.eps)
        concrete = torch.sigmoid((torch.logit(noise) + self.log_alpha) / self.temperature)
        return (concrete * (1 + 2 * self.stretch) - self.stretch).clamp(0, 1)

    def evaluation_mask(self) -> Tensor:
        """(size,) deterministic values, float32."""
        zeros = torch.round(len(self.log_alpha) - self.expected_open())
        rank = self.log_alpha.argsort(stable=True).argsort()  # on the device: the host does not wait
        mask = torch.sigmoid(0.8 * self.log_alpha / self.temperature)
        return torch.where(rank < zeros, torch.zeros_like(mask), mask)

    def _log_odds_open(self) -> Tensor:
        return self.log_alpha + self.temperature * math.log((1 + self.stretch) / self.stretch)

    def open_probability(self) -> Tensor:
        """(size,) probability that each gate is not 0 (equation 12)."""
        return torch.sigmoid(self._log_odds_open())

    def expected_open(self) -> Tensor:
        """Expected number of gates that are not 0, the expected L0 norm; 0-dim, differentiable."""
        return self.open_probability().sum()

    def any_open_probability(self) -> Tensor:
        """Probability that at least one gate is not 0; 0-dim, differentiable."""
        return -torch.expm1(nn.functional.logsigmoid(-self._log_odds_open()).sum())
