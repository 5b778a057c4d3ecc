"""The candidates found so far for each of several queries, and the floors below which a row cannot be a hit."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.search.exact import rank_quietly, wide_scores
from clipdex.search.found import Found

__all__ = ["Candidates"]

# Pairs to collect before the floors are raised again.
_FEW = 4096

# So few pairs of a lone query are returned as they are: the best of them are scored next, which says more.
_FEW_OF_ONE = 1024

_MOST = 1 << 18  # pairs kept, unless k requires more


_NONE = Found.joined([])


class Candidates:
    """Collects pairs from several threads and raises each query's floor, which k of its rows are sure to reach.

    At most a quarter of a million pairs are kept, or 2 k for each query if that is more. If the bounds cannot tell
    that many rows apart, they are scored on the way.
    """

    def __init__(
        self,
        vectors: Array,
        queries: npt.NDArray[np.float32],
        exponents: npt.NDArray[np.int32],
        k: npt.NDArray[np.int64],
        minimum: npt.NDArray[np.float64],
    ) -> None:
        """queries: (Q, D); exponents: (Q,), the bounds are those of query × 2^-exponent; k, minimum: (Q,)."""
        self._vectors, self._queries, self._exponents, self._k = vectors, queries, exponents, k
        self._minimum = minimum
        self._lone = int(k[0]) if len(k) == 1 else None
        self._twice = 2 * (int(k.sum()) if self._lone is None else self._lone)
        self._most = max(_MOST, self._twice)
        self._lock = threading.Lock()
        self._kept = _NONE
        self._new: list[Found] = []
        self._pending = 0
        self._floor: npt.NDArray[np.float64] = np.ldexp(minimum, -exponents)

    @property
    def floor(self) -> npt.NDArray[np.float64]:
        """float64 (Q,); only ever rises. Scaled like the bounds."""
        if self._lone is not None and self._new:
            with self._lock:
                self._settle()
        return self._floor

    def add(self, found: Found, rising: bool = False) -> None:
        """Add pairs, of rows not added before. rising: whether to raise the floors at once."""
        if len(found) == 0:
            return
        with self._lock:
            self._new.append(found)
            self._pending += len(found)
            # A lone query's floor is raised when somebody asks for it: after the last rows nobody does.
            if self._lone is None and (rising or self._pending > len(self._kept) + max(_FEW, self._twice)):
                self._settle()

    def taken(self) -> Found:
        """Return all pairs that may be among the best."""
        with self._lock:
            alone = self._lone is not None and len(self._kept) == 0 and len(self._new) == 1
            if alone and self._pending <= _FEW_OF_ONE:
                return self._new[0]
            if self._new:
                self._settle()
            return self._kept

    def _settle(self) -> None:
        """Raise the floors to what is now certain, and drop the pairs below them."""
        self._kept = Found.joined([some for some in (self._kept, *self._new) if len(some)])
        self._new, self._pending = [], 0
        self._raise_floors()
        if len(self._kept) > self._most:
            self._score()
            self._raise_floors()

    def _raise_floors(self) -> None:
        kept = self._kept
        if self._lone is not None:
            at = len(kept) - self._lone
            if at >= 0:
                lower = kept.lower.copy()
                lower.partition(at)
                self._floor = np.maximum(self._floor, lower[at])
            self._kept = kept.where(kept.upper >= self._floor)
        else:
            floor, lower = self._floor.copy(), kept.lower[kept.by_query()]
            counts = np.bincount(kept.query, minlength=len(floor))
            ends = np.cumsum(counts)
            for q in np.flatnonzero(counts >= self._k):
                mine, at = lower[ends[q] - counts[q] : ends[q]], counts[q] - self._k[q]
                mine.partition(at)
                floor[q] = max(floor[q], mine[at])
            self._floor = floor
            self._kept = kept.where(kept.upper >= floor[kept.query])

    def _score(self) -> None:
        """Replace bounds by scores, and keep the best k of each query."""
        kept, parts = self._kept, []
        for query in np.unique(kept.query):
            rows = kept.row[kept.query == query]
            k, minimum = int(self._k[query]), float(self._minimum[query])
            best = rank_quietly(self._vectors, self._queries[query], rows, k, minimum)
            scores, error, _ = wide_scores(self._vectors, self._queries[query], best.rows)
            bounds = np.ldexp((scores - 2 * error, scores + 2 * error), -self._exponents[query])
            parts.append(Found(np.full(len(best.rows), query), best.rows, *bounds))
        self._kept = Found.joined(parts)
