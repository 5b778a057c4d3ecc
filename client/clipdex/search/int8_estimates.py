"""Estimates from int8 codes of the rows and of the queries: several at once, or a lone one in fewer calls."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.search.found import Found
from clipdex.search.kernels import Int8Dots, scratch
from clipdex.search.quantize import CodeBlock, Codes, norms
from clipdex.search.sifting import NO_ROWS, not_below, reached, reached_by
from clipdex.search.spans import Span

__all__ = ["Int8Estimates", "LoneEstimates"]

_Doubles = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.int64]

# Conversions and sums in float32 between an exact integer and the value compared with the floor: at most eight
# roundings of 2⁻²⁴ each.
_ROUNDING = 2.0**-21

# What is compared with a cut in float32 has been rounded too.
_LESS, _MORE = 1 - 2.0**-21, 1 + 2.0**-21

_SECOND_LEVEL = 254  # the second int8 of a query counts a 254th of the first

# A block, its first row, and which of its rows.
_Piece = tuple[CodeBlock, int, slice | _Rows]


class _Coded:
    """Queries coded like the rows, and by how much their estimates may be off.

    queries: (Q, D), scaled, or a single one (D,), which has a number of NumPy where several have an array (Q,).
    """

    def __init__(self, codes: Codes, queries: _Doubles) -> None:
        self._codes = codes
        center, spread = codes.basis.wide
        turned = queries * spread  # exact: two numbers of 24 bits
        lengths = norms(queries)
        largest = np.maximum.reduce(np.abs(turned), axis=-1)
        unit = largest / 127
        first = np.rint(turned / unit[..., None])
        left = turned - unit[..., None] * first
        rounding = 1e-12 * math.sqrt(len(center)) * largest
        lost = norms(left) + rounding
        self._levels = [Int8Dots(first.astype(np.int8).reshape(-1, len(center)))]
        coded = norms(first)
        if _too_coarse(lost, lengths, *codes.typical):
            unit = unit / _SECOND_LEVEL
            second = np.clip(np.rint(left / unit[..., None]), -127, 127)
            lost = norms(left - unit[..., None] * second) + rounding
            self._levels.append(Int8Dots(second.astype(np.int8).reshape(-1, len(center)), "second"))
            coded = _SECOND_LEVEL * coded + norms(second)
        self.parallel = self._levels[0].parallel
        self._unit, self._base = unit, queries @ center
        # The error of the base in float64, in scores, by Cauchy and Schwarz.
        self._slack = 2.0**-52 * (len(center) + 8) * codes.basis.center_norm * lengths
        # A row's score is base + unit × (its integer × scale ± by_residual × residual ± by_length × length).
        self._by_residual = (1 + 1e-6) * lengths / unit
        self._by_length = (1 + 1e-6) * (lost / unit + _ROUNDING * coded)

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
        return np.concatenate(found) if found else NO_ROWS

    def _sums(self, code: npt.NDArray[np.int8]) -> Iterator[tuple[int, Array]]:
        """Yield pieces (first query, integers (n, some queries)), of any dtype that holds them."""
        if len(self._levels) == 1:
            yield from self._levels[0].parts(code)
            return
        both = zip(*(level.parts(code) for level in self._levels), strict=True)
        for (start, first), (_, second) in both:
            yield start, first * float(_SECOND_LEVEL) + second


class Int8Estimates(_Coded):
    """Estimates for any number of queries (Q, D), scaled."""

    def sift(self, span: Span, floor: _Doubles, k: _Rows | None = None, left_out: _Rows = NO_ROWS) -> Found:
        """See `Estimates.sift`; the span must lie within one undamaged block."""
        ((block, before, part),) = self._where(span)
        residual, length = block.extremes(part)
        # By how much integer × scale may be off for these rows, at most, for each query (Q,).
        margin = self._by_residual * residual + self._by_length * length
        low, high = self._base - 2 * self._slack, self._base + 2 * self._slack
        found = []
        for start, sums in self._sums(block.code[part]):
            asked = slice(start, start + sums.shape[1])
            scaled = scratch("scores", sums.size, np.float32).reshape(sums.shape)
            np.copyto(scaled, sums, casting="unsafe")
            scaled *= block.scale[part][:, None]
            if k is not None:
                sure = reached(k[asked], scaled, left_out) - margin[asked]
                floor = floor.copy()
                np.fmax(floor[asked], low[asked] + self._unit[asked] * sure, out=floor[asked])
            cut = np.fmax((floor - high) / self._unit - margin, -np.inf)  # NaN says nothing
            at, query = not_below(scaled, np.minimum(_LESS * cut, _MORE * cut)[asked].astype(np.float32))
            if len(at) == 0:
                continue
            row = part.start + at if isinstance(part, slice) else part[at]
            scores, query = sums[at, query] * block.scale[row].astype(np.float64), query + start
            error = self._by_residual[query] * block.residual[row] + self._by_length[query] * block.length[row]
            scores = self._base[query] + self._unit[query] * scores
            error = self._unit[query] * error + self._slack[query]
            found.append(Found.bounded(query, before + row, scores, error, floor))
        return Found.joined(found)


class LoneEstimates(_Coded):
    """Estimates for a single query (D,), scaled, in numbers: an operation on an array of one costs much more."""

    def __init__(self, codes: Codes, query: _Doubles) -> None:
        super().__init__(codes, query)
        numbers = (self._unit, self._base, self._slack, self._by_residual, self._by_length)
        self._of_one = tuple([float(number) for number in numbers])

    def sift(self, span: Span, floor: _Doubles, k: _Rows | None = None, left_out: _Rows = NO_ROWS) -> Found:
        """See `Estimates.sift`; the span must lie within one undamaged block."""
        return self.sift_products(span, self.products(span), floor, k, left_out)

    def products(self, span: Span, products: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """Multiply the codes of a span with the query, for `sift_products`: integers, rounded once.

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
        left_out: _Rows = NO_ROWS,
    ) -> Found:
        """Do what `sift` does, with the products of the span's rows, which are overwritten.

        The span may lie in several undamaged blocks: each call has a fixed cost.
        """
        unit, base, slack, by_residual, by_length = self._of_one
        pieces, begin = self._where(span), 0
        most_residual = most_length = 0.0
        for block, _, part in pieces:
            scale = block.scale[part]
            some = products[begin : begin + len(scale)]
            np.multiply(some, scale, out=some)
            begin += len(scale)
            residual, length = block.extremes(part)
            most_residual, most_length = max(most_residual, residual), max(most_length, length)
        # By how much integer × scale may be off for these rows, at most.
        margin = by_residual * most_residual + by_length * most_length
        least: float = floor[0].item()
        if k is not None:
            sure = reached_by(int(k[0]), products, left_out) - margin
            least = max(least, base - 2 * slack + unit * sure)
        cut = (least - base - 2 * slack) / unit - margin
        if math.isnan(cut):  # that says nothing
            cut = -math.inf
        at: _Rows = (products >= np.float32(min(_LESS * cut, _MORE * cut))).nonzero()[0]
        scores: _Doubles = products[at].astype(np.float64)
        scores *= unit
        scores += base
        # What float32 rounded is part of the error by length: a whole number times a float32 does not underflow.
        error, more = _errors(pieces, at)
        error *= unit * by_residual
        more *= unit * by_length
        error += more
        error += slack
        row = at + span.first if span.chosen is None else span.chosen[at]
        return Found.of_one(row, scores, error, least)


def _too_coarse(lost: _Doubles, lengths: _Doubles, residual: float, length: float) -> bool:
    """Return whether coding would lose much more in the queries than in the rows, for more than a few queries."""
    coarse = lost * length > 3 * lengths * residual
    return bool(coarse) if coarse.ndim == 0 else np.count_nonzero(coarse) > 0.05 * len(coarse)


def _errors(pieces: list[_Piece], at: _Rows) -> tuple[_Doubles, _Doubles]:
    """Look up places in a span, ascending -> (residuals, lengths)."""
    residual, length = np.empty(len(at)), np.empty(len(at))
    begin = first = 0
    for i, (block, _, part) in enumerate(pieces, start=1):
        end = begin + (part.stop - part.start if isinstance(part, slice) else len(part))
        last = len(at) if i == len(pieces) else int(at.searchsorted(end))
        here = at[first:last]
        row = here + (part.start - begin) if isinstance(part, slice) else part[here - begin]
        residual[first:last], length[first:last] = block.residual[row], block.length[row]
        begin, first = end, last
    return residual, length
