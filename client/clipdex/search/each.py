"""What each of several queries asks for, and how many of them are answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Each", "turns"]

# The best of so many pairs of a query and a row are kept at once; more queries are answered in turns.
_PAIRS = 1 << 21
_QUERIES = 1024


@dataclass(frozen=True)
class Each:
    """What each of Q queries asks for. k: int64 (Q,); minimum: float64 (Q,); excluded: rows of each, or None."""

    k: npt.NDArray[np.int64]
    minimum: npt.NDArray[np.float64]
    excluded: Sequence[npt.NDArray[np.int64]] | None

    @classmethod
    def of(
        cls,
        queries: int,
        k: int | Sequence[int],
        minimum: float | Sequence[float],
        excluded: Sequence[npt.NDArray[np.int64]] | None,
        most: int,
    ) -> Each:
        """Spread what is the same for all queries. most: rows that can be found."""
        excluded = excluded if excluded is not None and any(map(len, excluded)) else None
        counts, least = np.empty(queries, np.int64), np.empty(queries)
        counts[:] = min(k, most) if isinstance(k, int) else np.minimum(k, most)
        least[:] = minimum
        return cls(counts, least, excluded)

    def at(self, some: npt.NDArray[np.intp]) -> Each:
        """Select queries by number, ascending."""
        if len(some) == len(self.k):
            return self
        excluded = None if self.excluded is None else [self.excluded[q] for q in some]
        return Each(self.k[some], self.minimum[some], excluded)

    def within(self, first: int, end: int) -> Each:
        """The same for rows [first, end), numbered from 0."""
        if self.excluded is None:
            return self
        own = [some[(some >= first) & (some < end)] - first for some in self.excluded]
        return Each(self.k, self.minimum, own)

    def pairs(self, rows: int) -> npt.NDArray[np.int64]:
        """Number the excluded pairs of a query and one of so many rows: query × rows + row, ascending."""
        if self.excluded is None:
            return np.empty(0, np.int64)
        return np.sort(np.concatenate([q * rows + some for q, some in enumerate(self.excluded)]))


def turns(each: Each) -> int:
    """Return how many queries are answered at once."""
    return max(1, min(_QUERIES, _PAIRS // max(1, int(np.maximum.reduce(each.k, initial=0)))))
