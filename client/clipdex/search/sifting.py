"""Which of many scores may count: those not below a value, and a value that k of them reach."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array

__all__ = ["NO_ROWS", "not_below", "reached", "reached_by"]

_Doubles = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.int64]

# To find the k best of many scores roughly: at least so many groups, and so many for each of k.
_GROUPS, _GROUPS_FOR_EACH = 512, 16

NO_ROWS: _Rows = np.empty(0, np.int64)


def reached_by(k: int, scores: Array, left_out: _Rows = NO_ROWS) -> float:
    """Find a value that k of the finite scores (n,) reach, near the best such value; or -inf.

    The rows that are left out are not counted. Call it with NumPy's warnings off.
    """
    if len(left_out):
        scores = scores.copy()
        scores[left_out] = -np.inf
    size, groups = _grouped(len(scores), k)
    if groups < k:
        return -np.inf
    # The best of each group are of different rows.
    best = np.maximum.reduce(scores[: size * groups].reshape(size, groups), axis=0)
    if not math.isfinite(float(np.add.reduce(best))):
        best[~np.isfinite(best)] = -np.inf
    best.partition(groups - k)
    return float(best[groups - k])


def reached(k: _Rows, scores: Array, left_out: _Rows = NO_ROWS) -> _Doubles:
    """Do what `reached_by` does for each of several queries: k (Q,), scores (n, Q) -> (Q,)."""
    count, most = scores.shape[1], int(np.maximum.reduce(k))
    if count == 1:  # NumPy is slow with a last axis of one
        return np.array([reached_by(most, scores[:, 0], left_out)])
    if len(left_out):
        scores = scores.copy()
        scores[left_out] = -np.inf
    size, groups = _grouped(len(scores), most)
    if groups < most:
        return np.full(count, -np.inf)
    best = np.maximum.reduce(scores[: size * groups].reshape(size, groups, count), axis=0)
    best[~np.isfinite(best)] = -np.inf
    best.sort(axis=0)
    found: _Doubles = best[groups - k, np.arange(count)].astype(np.float64)
    return found


def _grouped(count: int, k: int) -> tuple[int, int]:
    """Cut so many scores into groups to find k of the best -> (the size of a group, how many there are)."""
    size = max(1, count // max(_GROUPS, _GROUPS_FOR_EACH * k))
    return size, count // size


def not_below(sums: Array, least: Array) -> tuple[_Rows, _Rows]:
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
