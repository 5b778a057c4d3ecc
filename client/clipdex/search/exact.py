"""Exact ranking: scores in float64, and exact sums where those cannot tell two rows apart.

A row's score is the inner product of the stored row and the query as real numbers, rounded once to float64. Rows
of equal score are ordered by row. So the order depends on the numbers alone: not on blocks, threads or libraries.
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
    if len(close):
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
) -> npt.NDArray[np.intp]:
    """Find positions in descending scores whose order with a neighbour, or the minimum, is uncertain."""
    touching = scores[:-1] - scores[1:] <= error[:-1] + error[1:]
    close = np.zeros(len(scores), bool)
    close[:-1] |= touching
    close[1:] |= touching
    close |= abs(scores - minimum) <= error
    return np.flatnonzero(close)


def _true_scores(
    vectors: Array, query: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Compute scores that are rounded only once. Copies of a row are summed once."""
    scores = np.empty(len(rows))
    known: dict[bytes, float] = {}
    step = max(1, _AT_ONCE // max(1, len(query)))
    for start in range(0, len(rows), step):
        block = np.ascontiguousarray(vectors[rows[start : start + step]])
        for i, row in enumerate(block, start):
            key = row.tobytes()
            if key not in known:
                # The product of two float32 is exact in float64; fsum rounds their true sum once.
                known[key] = math.fsum((row.astype(np.float64) * query).tolist())
            scores[i] = known[key]
        if len(known) * vectors.shape[1] > 8 * _AT_ONCE:
            known.clear()
    return scores
