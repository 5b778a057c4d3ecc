"""Approximate scores, each with a proven lower and upper bound.

`sift` finds the rows of a span whose upper bound reaches a query's floor; no other row's score does. Why the
bounds hold, step by step: docs/search-engine.md. Queries are scaled by a power of two, so that their largest
number is between 0.5 and 1; the scores here are scaled with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.search.cosines import off_unit
from clipdex.search.found import Found
from clipdex.search.kernels import FloatDots, Int8Dots, scratch, squared_norms
from clipdex.search.quantize import CodeBlock, Codes, norms
from clipdex.search.spans import Span

__all__ = ["Estimates", "FloatEstimates", "Int8Estimates", "RowNorms"]

_Doubles = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.int64]

# Conversions and sums in float32 between an exact integer and the value compared with the floor: at most eight
# roundings of 2⁻²⁴ each.
_ROUNDING = 2.0**-21

_SECOND_LEVEL = 254  # the second int8 of a query counts a 254th of the first

# To find the k best of many scores roughly: at least so many groups, and so many for each of k.
_GROUPS, _GROUPS_FOR_EACH = 512, 16

_NO_ROWS: _Rows = np.empty(0, np.int64)

# A block, its first row, and which of its rows.
_Piece = tuple[CodeBlock, int, slice | _Rows]


class Estimates(Protocol):
    """A way to estimate scores. parallel: whether calling `sift` from several threads at once is faster."""

    parallel: bool

    def sift(self, span: Span, floor: _Doubles, k: _Rows | None = None, left_out: _Rows = _NO_ROWS) -> Found:
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
        return bound, np.concatenate(unsound) if unsound else _NO_ROWS


def _measured(rows: Array, unit: bool) -> tuple[float, _Rows]:
    """Measure rows -> (an upper bound of ‖x‖, not tight, over the finite rows; if `unit`, the rows not of norm 1).

    The bound is infinite if float32 overflows.
    """
    squares = squared_norms(rows)
    unsound = off_unit(squares) if unit else _NO_ROWS
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

    def sift(self, span: Span, floor: _Doubles, k: _Rows | None = None, left_out: _Rows = _NO_ROWS) -> Found:
        """See `Estimates.sift`."""
        rows = self._vectors[span.first : span.end] if span.chosen is None else self._vectors[span.chosen]
        bound, unsound = self._norms.of(span, rows)
        if len(unsound):
            self._unsound(unsound)
        error = self._dots.error * bound
        sums = self._dots(rows)
        if k is not None:
            floor = np.fmax(floor, _reached(sums, k, left_out) - error)
        cut = floor - error
        cut -= 2.0**-22 * abs(cut)  # it may be rounded to float32 below
        at, query = _not_below(sums, cut)
        scores = sums[at, query].astype(np.float64)
        row = span.first + at if span.chosen is None else span.chosen[at]
        return _bounded(row, query, scores, error[query], floor)


class Int8Estimates:
    """Estimates from int8 codes of the rows and of the queries."""

    def __init__(self, codes: Codes, queries: _Doubles) -> None:
        self._codes = codes
        center, spread = codes.basis.wide
        turned = queries * spread  # exact: two numbers of 24 bits
        lengths = norms(queries)
        largest = np.maximum.reduce(np.abs(turned), axis=1)
        self._unit = largest / 127
        first = np.rint(turned / self._unit[:, None])
        left = turned - self._unit[:, None] * first
        rounding = 1e-12 * math.sqrt(len(center)) * largest
        lost = norms(left) + rounding
        self._levels = [Int8Dots(first.astype(np.int8))]
        coded = norms(first)
        if _too_coarse(lost, lengths, *codes.typical):
            self._unit = self._unit / _SECOND_LEVEL
            second = np.clip(np.rint(left / self._unit[:, None]), -127, 127)
            lost = norms(left - self._unit[:, None] * second) + rounding
            self._levels.append(Int8Dots(second.astype(np.int8), "second"))
            coded = _SECOND_LEVEL * coded + norms(second)
        self.parallel = self._levels[0].parallel
        self._base = queries @ center
        # The error of the base in float64, in scores, by Cauchy and Schwarz.
        self._slack = 2.0**-52 * (len(center) + 8) * codes.basis.center_norm * lengths
        self._low, self._high = self._base - 2 * self._slack, self._base + 2 * self._slack
        # A row's score is base + unit × (its integer × scale ± by_residual × residual ± by_length × length).
        self._by_residual = (1 + 1e-6) * lengths / self._unit
        self._by_length = (1 + 1e-6) * (lost / self._unit + _ROUNDING * coded)

    def _where(self, span: Span) -> list[_Piece]:
        """Find the undamaged blocks that a span lies in, in order; chosen rows lie in one."""
        size = self._codes.block_rows
        pieces: list[_Piece] = []
        for number in range(span.first // size, (span.end - 1) // size + 1):
            block, before = self._codes.block(number), number * size
            assert block is not None
            if span.chosen is None:
                part = slice(max(0, span.first - before), min(size, span.end - before))
                pieces.append((block, before, part))
            else:
                pieces.append((block, before, span.chosen - before))
        assert span.chosen is None or len(pieces) == 1
        return pieces

    def uncoded(self, span: Span) -> _Rows:
        """Find the rows of a span without a useful code: those not finite, or almost too large for float32."""
        found = []
        for block, before, part in self._where(span):
            if isinstance(part, slice) and math.isfinite(block.extremes(part)[0]):
                continue
            at = np.flatnonzero(np.isinf(block.residual[part]))
            found.append(before + (part.start + at if isinstance(part, slice) else part[at]))
        return np.concatenate(found) if found else _NO_ROWS

    def sift(self, span: Span, floor: _Doubles, k: _Rows | None = None, left_out: _Rows = _NO_ROWS) -> Found:
        """See `Estimates.sift`; the span must lie within one undamaged block."""
        if len(self._base) == 1:
            return self.sift_products(span, self.products(span), floor, k, left_out)
        pieces = self._where(span)
        ((block, before, part),) = pieces
        margin = self._margin(pieces)
        found = []
        for start, sums in self._sums(block.code[part]):
            asked = slice(start, start + sums.shape[1])
            scaled = scratch("scores", sums.size, np.float32).reshape(sums.shape)
            np.copyto(scaled, sums, casting="unsafe")
            scaled *= block.scale[part][:, None]
            if k is not None:
                sure = self._sure(_reached(scaled, k[asked], left_out), margin, asked)
                floor = floor.copy()
                np.fmax(floor[asked], sure, out=floor[asked])
            at, query = _not_below(scaled, _rounded_down(self._cut(floor, margin)[asked]))
            if len(at) == 0:
                continue
            row = part.start + at if isinstance(part, slice) else part[at]
            scores, query = sums[at, query] * block.scale[row].astype(np.float64), query + start
            error = self._by_residual[query] * block.residual[row] + self._by_length[query] * block.length[row]
            scores = self._base[query] + self._unit[query] * scores
            error = self._unit[query] * error + self._slack[query]
            found.append(_bounded(before + row, query, scores, error, floor))
        return Found.joined(found)

    def products(self, span: Span, products: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """Multiply the codes of a span with a single query, for `sift_products`: integers, rounded once.

        The span must lie within one undamaged block.

        products: to write to; without it, they are overwritten by this thread's next call.
        """
        ((block, _, part),) = self._where(span)
        products = scratch("scores", len(span), np.float32) if products is None else products
        if len(self._levels) == 1:
            self._levels[0].single(block.code[part], products)
        else:
            for _, sums in self._sums(block.code[part]):
                np.copyto(products, sums[:, 0], casting="unsafe")
        return products

    def sift_products(
        self,
        span: Span,
        products: npt.NDArray[np.float32],
        floor: _Doubles,
        k: _Rows | None = None,
        left_out: _Rows = _NO_ROWS,
    ) -> Found:
        """Do what `sift` does, for a single query and the products of its rows, which are overwritten.

        The span may lie in several undamaged blocks: each call has a fixed cost.
        """
        pieces, scores, done = self._where(span), products, 0
        for block, _, part in pieces:
            scale = block.scale[part]
            scores[done : done + len(scale)] *= scale
            done += len(scale)
        margin = self._margin(pieces)
        if k is not None:
            floor = np.fmax(floor, self._sure(_reached(scores[:, None], k, left_out), margin))
        at: _Rows = (scores >= _rounded_down(self._cut(floor, margin))).nonzero()[0]
        row, residual, length = _at(pieces, at)
        # What float32 rounded is part of the error by length: a whole number times a float32 does not underflow.
        error = self._by_residual * residual + self._by_length * length
        wide = self._base + self._unit * scores[at].astype(np.float64)
        return _bounded(row, np.zeros(len(at), np.int64), wide, self._unit * error + self._slack, floor)

    def _margin(self, pieces: list[_Piece]) -> _Doubles:
        """By how much integer × scale may be off for these rows, at most, for each query (Q,)."""
        extremes = [block.extremes(part) for block, _, part in pieces]
        most_residual, most_length = map(max, zip(*extremes, strict=True))
        margin: _Doubles = self._by_residual * most_residual + self._by_length * most_length
        return margin

    def _sure(self, reached: _Doubles, margin: _Doubles, asked: slice = slice(None)) -> _Doubles:
        """Bound the scores of rows that reach an integer × scale from below, for some queries."""
        sure: _Doubles = self._low[asked] + self._unit[asked] * (reached - margin[asked])
        return sure

    def _cut(self, floor: _Doubles, margin: _Doubles) -> _Doubles:
        """The least integer × scale with which a row's upper bound may reach the floor, for each query (Q,)."""
        cut: _Doubles = np.fmax((floor - self._high) / self._unit - margin, -np.inf)  # NaN says nothing
        return cut

    def _sums(self, code: npt.NDArray[np.int8]) -> Iterator[tuple[int, Array]]:
        """Yield pieces (first query, integers (n, some queries)), of any dtype that holds them."""
        if len(self._levels) == 1:
            yield from self._levels[0].parts(code)
            return
        both = zip(*(level.parts(code) for level in self._levels), strict=True)
        for (start, first), (_, second) in both:
            yield start, first * float(_SECOND_LEVEL) + second


def _too_coarse(lost: _Doubles, lengths: _Doubles, residual: float, length: float) -> bool:
    """Return whether coding would lose much more in the queries than in the rows, for more than a few queries."""
    return np.count_nonzero(lost * length > 3 * lengths * residual) > 0.05 * len(lost)


def _at(pieces: list[_Piece], at: _Rows) -> tuple[_Rows, Array, Array]:
    """Look up places in a span, ascending -> (their rows, residuals and lengths)."""
    found, done, first = [], 0, 0
    for block, before, part in pieces:
        done += part.stop - part.start if isinstance(part, slice) else len(part)
        end = len(at) if len(pieces) == 1 else int(at.searchsorted(done))
        row = at[first:end] - (done - part.stop) if isinstance(part, slice) else part[at]
        found.append((before + row, block.residual[row], block.length[row]))
        first = end
    if len(found) == 1:
        return found[0]
    rows, residuals, lengths = map(np.concatenate, zip(*found, strict=True))
    return rows, residuals, lengths


def _rounded_down(cut: _Doubles) -> npt.NDArray[np.float32]:
    """Round to float32, with room for the roundings of what is compared with it."""
    return np.minimum((1 - 2.0**-21) * cut, (1 + 2.0**-21) * cut).astype(np.float32)


def _reached(scores: Array, k: _Rows, left_out: _Rows) -> _Doubles:
    """Find for each query a value that k of its finite scores (n, Q) reach, near the best such value; or -inf.

    The rows that are left out are not counted.
    """
    if len(left_out):
        scores = scores.copy()
        scores[left_out] = -np.inf
    count, most = scores.shape[1], int(np.maximum.reduce(k))
    size = max(1, len(scores) // max(_GROUPS, _GROUPS_FOR_EACH * most))
    groups = len(scores) // size
    if groups < most:
        return np.full(count, -np.inf)
    # The best of each group are of different rows. NumPy is slow with a last axis of one.
    grouped = (size, groups) if count == 1 else (size, groups, count)
    best = np.maximum.reduce(scores[: size * groups].reshape(grouped), axis=0).reshape(groups, count)
    best[~np.isfinite(best)] = -np.inf
    if count == 1:
        best[:, 0].partition(groups - most)
    else:
        best.sort(axis=0)
    found: _Doubles = best[groups - k, np.arange(count)].astype(np.float64)
    return found


def _not_below(sums: Array, least: Array) -> tuple[_Rows, _Rows]:
    """Find where sums (n, Q) are not below least (Q,) -> (rows, queries). NaN is not below."""
    if sums.shape[1] == 1:
        at = _set(~(sums[:, 0] < least[0]))
        return at, np.zeros(len(at), np.int64)
    below = sums < least
    at, query = np.divmod(_set(np.logical_not(below, out=below).reshape(-1)), sums.shape[1])
    return at, query


def _set(flags: npt.NDArray[np.bool_]) -> _Rows:
    """Find the set flags (n,), like np.flatnonzero, but faster if few are set: it tests eight at once."""
    if flags.size % 8:
        return np.flatnonzero(flags)
    eights = np.flatnonzero(flags.view(np.uint64) != 0)
    high, low = np.nonzero(flags.reshape(-1, 8)[eights])
    return 8 * eights[high] + low


def _bounded(row: _Rows, query: _Rows, scores: _Doubles, error: _Doubles, floor: _Doubles) -> Found:
    """Keep the pairs whose upper bound reaches the floor."""
    lower, upper = scores - error, scores + error
    # An infinity may be an overflow, or be in the row itself, which is then never a hit: the bounds are unknown.
    if not math.isfinite(float(np.add.reduce(lower)) + float(np.add.reduce(upper))):
        unknown = ~(np.isfinite(lower) & np.isfinite(upper))
        lower[unknown], upper[unknown] = -np.inf, np.inf
    found = Found(query, row, lower, upper)
    kept = upper >= (floor[query] if len(floor) > 1 else floor)
    return found if kept.all() else found.where(kept)
