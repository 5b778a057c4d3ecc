"""Approximate scores, each with a proven lower and upper bound.

`sift` finds the rows of a span whose upper bound reaches a query's floor; no other row's score does. Why the
bounds hold, step by step: docs/search-engine.md. Queries are scaled by a power of two, so that their largest
number is between 0.5 and 1; the scores here are scaled with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.search.cosines import off_unit
from clipdex.search.found import Found
from clipdex.search.kernels import FloatDots, squared_norms
from clipdex.search.sifting import NO_ROWS, not_below, reached
from clipdex.search.spans import Span

__all__ = ["Estimates", "FloatEstimates", "RowNorms"]

_Doubles = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.int64]


class Estimates(Protocol):
    """A way to estimate scores. parallel: whether calling `sift` from several threads at once is faster."""

    parallel: bool

    def sift(self, span: Span, floor: _Doubles, k: _Rows | None = None, left_out: _Rows = NO_ROWS) -> Found:
        """Find the pairs of the span's rows and all queries whose upper bound is not below the query's floor (Q,).

        Call it with NumPy's warnings off: overflows are detected and computed again in float64.

        k: of each query (Q,): pairs that k others of the span surely beat are left out too.
        left_out: places in the span of rows that do not count among the k; they are found like others.
        """


class RowNorms:
    """Upper bounds of ‖x‖ for each 2,048 rows, computed when they are first read, and kept for the next search.

    Rows may be added to the array that it is used for, but not changed.

    unit: whether every row must be finite and of norm 1: a search that would rank another raises UnsoundRow.
    """

    ROWS = 2048

    def __init__(self, *, unit: bool = False) -> None:
        self.unit = unit
        self._largest: dict[int, tuple[float, _Rows]] = {}

    def of(self, span: Span, rows: Array) -> tuple[float, _Rows]:
        """Bound the norms of a span's rows (n, D) -> (the bound; the rows not of norm 1, if that is required)."""
        if span.chosen is not None:
            bound, at = _measured(rows, self.unit)
            return bound, span.chosen[at]
        bound, unsound = 0.0, []
        for first in range(span.first - span.first % self.ROWS, span.end, self.ROWS):
            known = self._largest.get(first // self.ROWS)
            if known is None:
                part = rows[max(0, first - span.first) : first + self.ROWS - span.first]
                largest, at = _measured(part, self.unit)
                known = largest, max(first, span.first) + at
                if len(part) == self.ROWS:
                    self._largest[first // self.ROWS] = known
            bound = max(bound, known[0])
            if len(known[1]):
                unsound.append(known[1])
        return bound, np.concatenate(unsound) if unsound else NO_ROWS


def _measured(rows: Array, unit: bool) -> tuple[float, _Rows]:
    """Measure rows -> (an upper bound of ‖x‖, not tight, over the finite rows; if `unit`, the rows not of norm 1).

    The bound is infinite if float32 overflows.
    """
    squares = squared_norms(rows)
    unsound = off_unit(squares) if unit else NO_ROWS
    bad = np.flatnonzero(~np.isfinite(squares))
    squares[bad[~np.isfinite(rows[bad]).all(axis=1)]] = 0
    largest = float(squares.max(initial=0.0))
    # 1 % covers the rounding of the sum, the constant what was too small for float32.
    return 1.01 * float(np.sqrt(largest)) + 1e-15, unsound


class FloatEstimates:
    """Estimates from the stored rows themselves, in float32 or better.

    unsound: called with the rows that `norms` finds not finite or not of norm 1, if there are any.
    """

    def __init__(
        self, vectors: Array, queries: _Doubles, norms: RowNorms, unsound: Callable[[_Rows], None]
    ) -> None:
        self._vectors, self._norms, self._unsound = vectors, norms, unsound
        self._dots = FloatDots(queries, vectors.dtype)
        self.parallel = self._dots.parallel

    def sift(self, span: Span, floor: _Doubles, k: _Rows | None = None, left_out: _Rows = NO_ROWS) -> Found:
        """See `Estimates.sift`."""
        rows = self._vectors[span.first : span.end] if span.chosen is None else self._vectors[span.chosen]
        bound, unsound = self._norms.of(span, rows)
        if len(unsound):
            self._unsound(unsound)
        error = self._dots.error * bound
        sums = self._dots(rows)
        if k is not None:
            floor = np.fmax(floor, reached(k, sums, left_out) - error)
        cut = floor - error
        cut -= 2.0**-22 * abs(cut)  # it may be rounded to float32 below
        at, query = not_below(sums, cut)
        scores = sums[at, query].astype(np.float64)
        row = span.first + at if span.chosen is None else span.chosen[at]
        return Found.bounded(query, row, scores, error[query], floor)
