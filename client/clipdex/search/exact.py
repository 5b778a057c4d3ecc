"""Exact ranking: true sums of the rows that float64 cannot exclude.

A row's score is the inner product of the stored row and the query as real numbers, rounded once to float64. Rows
of equal score are ordered by row. So the result depends on the numbers alone, to the last bit: not on blocks,
threads or libraries, nor on the queries that share a scan.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.search.kernels import as_float32, wide_dots

__all__ = ["Ranking", "rank", "rank_quietly", "wide_scores"]

_AT_ONCE = 1 << 19  # numbers of float64: 4 MiB

_FEW = 32  # so few rows are not scored in float64 first: it costs as much as the true scores


class Ranking(NamedTuple):
    """The ranked rows of one query, best first: scores, float64, and rows, int64, of one length."""

    scores: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]


def rank(
    vectors: Array, query: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], k: int, minimum: float = -np.inf
) -> Ranking:
    """Rank the best k of the given rows with scores of at least `minimum`; rows that are not finite are left out.

    Args:
        vectors: (N, D) of float16 or float32.
        query: float32 (D,), finite.
        rows: in any order, without duplicates.
    """
    with np.errstate(all="ignore"):
        return rank_quietly(vectors, query, rows, k, minimum)


def rank_quietly(
    vectors: Array, query: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], k: int, minimum: float
) -> Ranking:
    """Do what `rank` does, where NumPy's warnings are off."""
    if len(rows) > _FEW and 0 < k < len(rows):
        # Drop the rows that cannot be among the best k.
        scores, error, _ = wide_scores(vectors, query, rows)
        sure = np.fmax(scores - error, -np.inf)
        sure.partition(len(rows) - k)
        rows = rows[scores + error >= max(float(sure[len(rows) - k]), minimum)]
    scores = _true_scores(vectors, query.astype(np.float64), rows)
    kept = scores >= minimum
    if not kept.all():
        scores, rows = scores[kept], rows[kept]
    order = np.lexsort((rows, -scores))[:k]
    # -0.0 is an ordinary zero.
    return Ranking(scores[order] + 0.0, rows[order])


def wide_scores(
    vectors: Array, query: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute in float64 -> (the rows' scores, bounds of their errors, ‖x‖²); not finite for a row that is not.

    Call it with NumPy's warnings off.
    """
    count, dim = len(rows), len(query)
    scores, squares = np.empty(count), np.empty(count)
    step = max(1, _AT_ONCE // max(1, dim))
    for start in range(0, count, step):
        part = slice(start, start + step)
        read = as_float32(vectors[rows[part]])
        scores[part] = wide_dots(read, query[None])
        squares[part] = wide_dots(read, read)
    # Higham's bound of a sum of D products, and Cauchy and Schwarz's of their sizes' sum.
    error = np.sqrt(squares)
    error *= 1.01 * (dim + 4) * 2.0**-53 * math.sqrt(float(wide_dots(query[None], query[None])[0]))
    return scores, error, squares


def _true_scores(
    vectors: Array, query: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Compute scores that are rounded only once; NaN for a row that is not finite. With NumPy's warnings off."""
    scores = np.empty(len(rows))
    known: dict[bytes, float] = {}
    step = max(1, _AT_ONCE // max(1, len(query)))
    for start in range(0, len(rows), step):
        # The product of two float32 is exact in float64.
        products = as_float32(vectors[rows[start : start + step]]).astype(np.float64)
        products *= query
        scores[start : start + step], unsure = _sums(products)
        for i in unsure:
            key = products[i].tobytes()  # copies of a row are summed once
            if key not in known:
                known[key] = math.fsum(products[i].tolist())
            scores[start + i] = known[key]
        if len(known) * vectors.shape[1] > 8 * _AT_ONCE:
            known.clear()
    return scores


def _sums(products: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Sum rows (n, D) -> (sums rounded once, NaN if not finite; the finite rows where that may be wrong).

    Each product is cut in two at a place that depends on the largest of its row, so that the upper parts are
    summed without error, and the lower are so small that the errors of their sum hardly ever matter (Rump, Ogita,
    Oishi: Accurate floating-point summation, 2008, ExtractVector).
    """
    dim = products.shape[1]
    largest = np.maximum(np.maximum.reduce(products, axis=1), -np.minimum.reduce(products, axis=1))
    # A power of two, more than D + 2 times the largest: adding and subtracting it leaves a multiple of its 2^-53.
    place = np.ldexp(np.sign(largest), np.frexp(largest)[1] + (dim + 2).bit_length())
    upper = products + place[:, None]
    upper -= place[:, None]
    high = np.add.reduce(upper, axis=1)
    low = np.add.reduce(np.subtract(products, upper, out=upper), axis=1)
    # D lower parts of at most 2^-53 of the place, and as many roundings of their sum; 2 and 1 % for those below.
    error = 1.01 * ((dim + 2) * 2.0**-53) ** 2 * place
    least, most = high + (low - error), high + (low + error)
    if np.logical_and.reduce(least == most):
        return least, _NO_ROWS
    unsure = (least < most).nonzero()[0]
    if len(unsure) == 0:
        return least, unsure
    # Most lie halfway between two float64, and their lower parts were summed without error too: as multiples of a
    # power of two, of which 53 bits hold every sum.
    sizes, unit = np.abs(products[unsure]), 2.0**-53 * place[unsure]
    smallest = np.minimum.reduce(sizes, axis=1, where=sizes > 0, initial=np.inf)
    grain = np.minimum(np.ldexp(1.0, np.frexp(smallest)[1] - 53), unit)
    exact = dim * unit <= 2.0**53 * grain
    settled = unsure[exact]
    least[settled] = high[settled] + low[settled]
    return least, unsure[~exact]


_NO_ROWS = np.empty(0, np.intp)
