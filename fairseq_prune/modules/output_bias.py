"""What pruning leaves of a block that lost all of its heads or units."""

import torch
from torch import Tensor, nn


class OutputBias(nn.Module):
    """What is left of the last linear map of a block without heads or units."""

    def __init__(self, dim: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self) -> Tensor:
        """(dim,), the block's output for every frame."""
        return self.bias
