"""Rows of different lengths in one array."""

from collections.abc import Iterable

import numpy as np


class Ragged:
    """Rows of different lengths, kept in one array so that worker processes share its memory.

    Args:
        values: all rows one after another, ``(sum of lengths, ...)``
        lengths: ``(rows,)``
    """

    def __init__(self, values: np.ndarray, lengths: np.ndarray):
        self.values = values
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self._ends = np.cumsum(self.lengths)

    @classmethod
    def of(cls, rows: Iterable[np.ndarray], dtype) -> "Ragged":
        """Copy rows ``(length,)`` into one array."""
        rows = list(rows)
        values = np.concatenate([np.zeros(0, dtype), *rows]).astype(dtype, copy=False)
        return cls(values, np.array([len(row) for row in rows], dtype=np.int64))

    @classmethod
    def empty(cls, lengths: np.ndarray, dtype) -> "Ragged":
        """Rows to be written into."""
        return cls(np.empty(int(np.sum(lengths)), dtype), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Row ``index``, a view ``(lengths[index],)``."""
        end = self._ends[index]
        return self.values[end - self.lengths[index] : end]

    def select(self, mask: np.ndarray) -> "Ragged":
        """The rows where ``mask`` ``(rows,)`` is True."""
        return Ragged(self.values[np.repeat(mask, self.lengths)], self.lengths[mask])
