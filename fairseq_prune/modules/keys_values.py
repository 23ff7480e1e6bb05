"""What attention keeps between the steps of a decoder."""

from typing import NamedTuple

import torch
from torch import Tensor


class KeysValues(NamedTuple):
    """Each (batch, heads, positions, head dim)."""

    keys: Tensor
    values: Tensor

    def append(self, other: "KeysValues") -> "KeysValues":
        """With the positions of the other after its own."""
        return KeysValues(*(torch.cat(pair, dim=2) for pair in zip(self, other)))

    def select(self, rows: Tensor) -> "KeysValues":
        """Those of the given rows (rows,) of the batch."""
        return KeysValues(*(part.index_select(0, rows) for part in self))
