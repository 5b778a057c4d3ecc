"""Pairs of rows whose vectors are close: every block of the index against every other, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clipdex.apps.duplicates.groups import joining
from clipdex.base.agreement import agree
from clipdex.base.arrays import Array

__all__ = ["close_pairs", "cosines"]

_BLOCK = 4096
_STRIP = 256  # rows of a block of which all pairs are written out at once

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def close_pairs(
    vectors: Array, rows: Rows, cosine: float, progress: Callable[[int, int], None] | None = None
) -> Rows:
    """Positions in `rows` whose vectors have at least this cosine: int64 (m, 2), m < len(rows).

    Of all such pairs, which may be n², these are enough to hang together what they hang together.

    vectors: (N, D), as in the index. The work is n² × D multiplications: all is compared with all.
    progress: called with the rows done and all.
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    parent = np.arange(len(rows), dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        mine = _unit(vectors[rows[start : start + _BLOCK]])
        for other in range(start, len(rows), _BLOCK):
            theirs = mine if other == start else _unit(vectors[rows[other : other + _BLOCK]])
            near = agree(mine @ theirs.T, cosine)
            for first in range(0, len(near), _STRIP):
                pairs = joining(parent, start + first, other, near[first : first + _STRIP])
                if len(pairs):
                    found.append(pairs)
        if progress is not None:
            progress(min(start + _BLOCK, len(rows)), len(rows))
    return np.concatenate(found)


def cosines(vectors: Array, one: int, others: Rows) -> Floats:
    """float32 (m,): of one row with m others, which are read block by block."""
    (own,) = _unit(vectors[[one]])
    blocks = (others[start : start + _BLOCK] for start in range(0, len(others), _BLOCK))
    return np.concatenate([np.empty(0, dtype=np.float32), *(_unit(vectors[block]) @ own for block in blocks)])


def _unit(block: Array) -> Floats:
    """float32 of norm 1: float16 rows are so only up to their rounding."""
    wide = block.astype(np.float32)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.maximum(norms, 1e-12), dtype=np.float32)
