"""What a scan finds: pairs of a query and a row, each with a lower and an upper bound of its score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array

__all__ = ["Found"]


@dataclass(frozen=True)
class Found:
    """Pairs of a query and a row, with bounds of their score: four arrays of one length."""

    query: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.row)

    def where(self, kept: Array) -> Found:
        """Select pairs by an index or a mask."""
        return Found(self.query[kept], self.row[kept], self.lower[kept], self.upper[kept])

    def by_query(self) -> npt.NDArray[np.intp]:
        """Order the pairs by query, of which there are fewer than 32,768."""
        return np.argsort(self.query.astype(np.int16), kind="stable")  # NumPy sorts 16 bits by their digits

    @classmethod
    def joined(cls, parts: list[Found]) -> Found:
        """Concatenate several."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0))
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("query", "row", "lower", "upper")))
