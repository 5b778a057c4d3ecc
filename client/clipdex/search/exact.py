"""Exact ranking: scores in float64, and true sums of the best and where float64 cannot tell two rows apart.

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
from clipdex.search.kernels import as_float32

__all__ = ["Ranking", "rank", "wide_scores"]

_AT_ONCE = 1 << 19  # numbers of float64: 4 MiB


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
    wide = query.astype(np.float64)
    scores, error = wide_scores(vectors, wide, rows)
    # Drop the rows that cannot be among the best k.
    if len(rows) > k > 0:
        sure = np.where(np.isnan(scores), -np.inf, scores - error)
        kth = np.partition(sure, len(rows) - k)[len(rows) - k]
        kept = scores + error >= max(kth, minimum)
    else:
        kept = scores + error >= minimum
    scores, error, rows = scores[kept], error[kept], rows[kept]
    order = np.lexsort((rows, -scores))
    scores, error, rows = scores[order], error[order], rows[order]
    close = _too_close(scores, error, minimum)
    close[:k] = True  # those that are returned
    if close.any():
        scores[close] = _true_scores(vectors, wide, rows[close])
        order = np.lexsort((rows, -scores))
        scores, rows = scores[order], rows[order]
    enough = min(k, int(np.searchsorted(-scores, -minimum, side="right")))
    # -0.0 is an ordinary zero.
    return Ranking(scores[:enough] + 0.0, rows[:enough])


def wide_scores(
    vectors: Array, query: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute the rows' scores in float64 and bounds of their errors; NaN for a row that is not finite."""
    scores, sizes = np.empty(len(rows)), np.empty(len(rows))
    step = max(1, _AT_ONCE // max(1, len(query)))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        with np.errstate(all="ignore"):
            products = as_float32(vectors[rows[part]]).astype(np.float64)
            products *= query
            scores[part] = products.sum(axis=1)
            np.abs(products, out=products)
            sizes[part] = products.sum(axis=1)
    scores[~np.isfinite(scores)] = np.nan
    return scores, 1.01 * (len(query) + 2) * 2.0**-53 * sizes


def _too_close(
    scores: npt.NDArray[np.float64], error: npt.NDArray[np.float64], minimum: float
) -> npt.NDArray[np.bool_]:
    """Flag the descending scores (n,) whose order with a neighbour, or the minimum, is uncertain."""
    touching = scores[:-1] - scores[1:] <= error[:-1] + error[1:]
    close = np.zeros(len(scores), bool)
    close[:-1] |= touching
    close[1:] |= touching
    close |= abs(scores - minimum) <= error
    return close


def _true_scores(
    vectors: Array, query: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Compute scores that are rounded only once."""
    scores = np.empty(len(rows))
    known: dict[bytes, float] = {}
    step = max(1, _AT_ONCE // max(1, len(query)))
    for start in range(0, len(rows), step):
        # The product of two float32 is exact in float64.
        products = as_float32(vectors[rows[start : start + step]]).astype(np.float64)
        products *= query
        scores[start : start + step], unsure = _extended_sums(products)
        for i in unsure:
            key = products[i].tobytes()  # copies of a row are summed once
            if key not in known:
                known[key] = math.fsum(products[i].tolist())
            scores[start + i] = known[key]
        if len(known) * vectors.shape[1] > 8 * _AT_ONCE:
            known.clear()
    return scores


def _has_extended() -> bool:
    """Return whether longdouble has 64 bits or more, as on x86."""
    one, small = np.longdouble(1), np.ldexp(np.longdouble(1), -63)
    return bool((one + small) - one == small)


_EXTENDED = _has_extended()


def _extended_sums(products: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Sum rows (n, D) in extended precision -> (sums rounded to float64, the rows that this may round wrongly)."""
    if not _EXTENDED:
        return np.zeros(len(products)), np.arange(len(products))
    sums, error = products.astype(np.longdouble), np.zeros(len(products))
    while sums.shape[1] > 1:  # in pairs
        half, odd = divmod(sums.shape[1], 2)
        left = sums[:, -1:] if odd else sums[:, :0]
        sums = sums[:, :half] + sums[:, half : 2 * half]
        # A sum is rounded by at most 2^-64 of itself.
        error += np.abs(sums.astype(np.float64)).sum(axis=1)
        sums = np.concatenate([sums, left], axis=1) if odd else sums
    # 1 % for the roundings of the bound, 2 for the additions below.
    error = (1.01 * error + 2 * np.abs(sums[:, 0].astype(np.float64))) * 2.0**-64
    low, high = (sums[:, 0] - error).astype(np.float64), (sums[:, 0] + error).astype(np.float64)
    return low, np.flatnonzero(~(low == high))
