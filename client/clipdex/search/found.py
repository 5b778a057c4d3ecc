"""What a scan finds: pairs of a query and a row, each with a lower and an upper bound of its score."""

from __future__ import annotations

import math
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
    def bounded(
        cls,
        query: npt.NDArray[np.int64],
        row: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float64],
        error: npt.NDArray[np.float64],
        floor: npt.NDArray[np.float64],
    ) -> Found:
        """Select the pairs with these scores, at most so much off, that may reach their query's floor (Q,)."""
        lower, upper = _bounds(scores, error)
        kept = upper >= floor[query]
        return cls(query[kept], row[kept], lower[kept], upper[kept])

    @classmethod
    def of_one(
        cls,
        row: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float64],
        error: npt.NDArray[np.float64],
        floor: float,
    ) -> Found:
        """Do what `bounded` does, for a single query."""
        lower, upper = _bounds(scores, error)
        kept = (upper >= floor).nonzero()[0]
        return cls(np.zeros(len(kept), np.int64), row[kept], lower[kept], upper[kept])

    @classmethod
    def joined(cls, parts: list[Found]) -> Found:
        """Concatenate several."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0))
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("query", "row", "lower", "upper")))


def _bounds(
    scores: npt.NDArray[np.float64], error: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    lower, upper = scores - error, scores + error
    # An infinity may be an overflow, or be in the row itself, which is then never a hit: the bounds are unknown.
    # An error is not negative: where the upper bound is finite, the score is.
    if not math.isfinite(float(np.add.reduce(upper))):
        unknown = ~(np.isfinite(lower) & np.isfinite(upper))
        lower[unknown], upper[unknown] = -np.inf, np.inf
    return lower, upper
