"""Pairs of rows whose vectors are close: every block of the index against every other, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clipdex.arrays import Array

__all__ = ["close_pairs"]

_BLOCK = 4096


def close_pairs(
    vectors: Array, rows: npt.NDArray[np.int64], cosine: float, progress: Callable[[int, int], None] | None = None
) -> npt.NDArray[np.int64]:
    """Positions in `rows` whose vectors have at least this cosine: int64 (m, 2), the smaller first.

    vectors: (N, D), as in the index. The work is n² × D multiplications: all is compared with all.
    progress: called with the rows done and all.
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(rows), _BLOCK):
        mine = _unit(vectors[rows[start : start + _BLOCK]])
        for other in range(start, len(rows), _BLOCK):
            scores = mine @ (mine if other == start else _unit(vectors[rows[other : other + _BLOCK]])).T
            i, j = np.nonzero(scores >= cosine)
            pairs = np.stack([i + start, j + other], axis=1).astype(np.int64)
            found.append(pairs[pairs[:, 0] < pairs[:, 1]])
        if progress is not None:
            progress(min(start + _BLOCK, len(rows)), len(rows))
    return np.concatenate(found)


def _unit(block: Array) -> npt.NDArray[np.float32]:
    """float32 of norm 1: float16 rows are so only up to their rounding."""
    wide = block.astype(np.float32)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.maximum(norms, 1e-12), dtype=np.float32)
