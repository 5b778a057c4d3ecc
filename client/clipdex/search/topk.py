"""Exact top-k by inner product over rows on disk, in bounded memory.

Rows and queries have norm 1, so the inner product is the cosine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["top_k"]

# Big enough for BLAS to run at full speed, small enough to stay in the cache while scores are ranked.
_BLOCK_BYTES = 16 << 20


def top_k(
    vectors: npt.NDArray[Any],
    queries: npt.NDArray[np.float32],
    k: int,
    *,
    dead: npt.NDArray[np.int64] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The k rows with the largest inner product for each query.

    Args:
        vectors: (N, D) of float16 or float32; read once, block by block.
        queries: float32 (Q, D).
        k: at most the number of rows that are not dead.
        dead: rows to leave out, ascending.

    The arithmetic is float32's: two rows whose scores differ by its rounding alone may change places.

    Returns:
        scores, float32 (Q, k), best first; and their rows, int64 (Q, k). Equal scores stand by row.
    """
    count, (n_queries, dim) = len(vectors), queries.shape
    best = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in range(n_queries)]
    step = max(256, _BLOCK_BYTES // (4 * max(dim, n_queries)))
    for start in range(0, count, step):
        block = np.asarray(vectors[start : start + step], dtype=np.float32)
        scores = queries @ block.T  # float32 (Q, rows of the block)
        if dead is not None:
            low, high = np.searchsorted(dead, (start, start + len(block)))
            scores[:, dead[low:high] - start] = -np.inf
        for q in range(n_queries):
            best[q] = _merge(*best[q], scores[q], start, k)
    if k == 0 or n_queries == 0:
        return np.empty((n_queries, k), np.float32), np.empty((n_queries, k), np.int64)
    return np.stack([scores for scores, _ in best]), np.stack([rows for _, rows in best])


def _merge(
    best_scores: npt.NDArray[np.float32],
    best_rows: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    start: int,
    k: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The best k of those found so far and of a block's scores, whose first row is `start`."""
    if k == 0:
        return best_scores, best_rows
    if len(best_scores) == k:
        # A later row with an equal score loses the tie, so only better ones matter.
        inside = np.flatnonzero(scores > best_scores[-1])
    else:
        inside = np.flatnonzero(scores > -np.inf)
    if len(inside) == 0:
        return best_scores, best_rows
    if len(inside) > k:
        candidates = scores[inside]
        kth = np.partition(candidates, len(inside) - k)[len(inside) - k]
        inside = inside[candidates >= kth]
    all_scores = np.concatenate((best_scores, scores[inside]))
    all_rows = np.concatenate((best_rows, inside + start))
    # The last key is the first to sort by.
    order = np.lexsort((all_rows, -all_scores))[:k]
    return all_scores[order], all_rows[order]
