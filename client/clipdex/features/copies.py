"""Exact copies of a picture among the neighbours of a query's points: they count as one, and take one's place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clipdex.features.neighbours import POINTS_A_ROW, Found, Neighbours

__all__ = ["Copies", "nearest_apart"]

_WIDER = 4  # times as many neighbours are looked for where copies take their places
_MOST = 768  # neighbours of a point
_FEWEST = 3  # points of a row: fewer are compared with nothing, and may be those of one thing in two pictures

_Rows = npt.NDArray[np.int64]


def nearest_apart(
    neighbours: Neighbours,
    descriptors: npt.NDArray[np.uint8],
    k: int,
    alike: Callable[[Found], _Rows],
    one_id: Callable[[Found], _Rows],
) -> Found:
    """Find the k nearest of each descriptor, as `Neighbours.search`, counting all copies of a neighbour as one.

    Where copies take more than half of the k places, more neighbours are looked for: 768 at most.

    alike: a number of each neighbour that all copies of it have, and few others: int64 (n, k), negative for none.
    one_id: the ids of neighbours, with one id for all copies of one: int64 (n, k), negative for none.
    """
    distances, ids = neighbours.search(descriptors, k)
    wide, enough = k, k // 2
    while wide < _MOST:
        apart = _first_of_each(alike((distances, ids))).sum(axis=1)
        # The last is none where there are no more.
        crowded = np.flatnonzero((apart < enough) & (ids[:, -1] >= 0))
        if not len(crowded):
            break
        more = ((0, 0), (0, wide * (_WIDER - 1)))
        wide, enough = wide * _WIDER, k
        distances = np.pad(distances, more, constant_values=np.inf)
        ids = np.pad(ids, more, constant_values=-1)
        distances[crowded], ids[crowded] = neighbours.search(descriptors[crowded], wide)
    ids = one_id((distances, ids))
    first = _first_of_each(ids)
    if wide == k and first.all():
        return distances, ids
    order = np.argsort(~first, axis=1, kind="stable")[:, :k]
    first = np.take_along_axis(first, order, 1)
    nearest = np.where(first, np.take_along_axis(distances, order, 1), np.float32(np.inf))
    return nearest, np.where(first, np.take_along_axis(ids, order, 1), -1)


class Copies:
    """Which rows are copies of others, among the neighbours that were last given to it.

    Copies have the same descriptors in the same order, so their points of one number are as far from any other.
    Rows of which three points or more were found, and all of them as far, are taken for copies: compare their
    features.
    """

    def __init__(self, live: npt.NDArray[np.bool_] | None = None) -> None:
        """live: bool (rows,); rows that are not are copies of none. All are if not given."""
        self._live = live
        self._rows = self._firsts = np.empty(0, np.int64)

    @staticmethod
    def alike(found: Found) -> _Rows:
        """Number neighbours by their distance and which point of their picture they are; see `nearest_apart`."""
        distances, ids = found
        far = distances.astype(np.float32).view(np.int32).astype(np.int64)
        return np.where(ids < 0, -1, far * POINTS_A_ROW + ids % POINTS_A_ROW)

    def one_id(self, found: Found) -> _Rows:
        """Give all copies of a neighbour the id that it has in the first of their rows; see `nearest_apart`."""
        self._rows, self._firsts = _copies(found, self._live)
        ids = found[1]
        if not len(self._rows):
            return ids
        rows, numbers = np.divmod(ids, POINTS_A_ROW)
        at = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
        rows = np.where(self._rows[at] == rows, self._firsts[at], rows)
        return np.asarray(rows * POINTS_A_ROW + numbers, np.int64)

    def of(self, row: int) -> list[int]:
        """Return the other rows whose first one this is, ascending."""
        found: list[int] = self._rows[self._firsts == row].tolist()
        return found


def _copies(found: Found, live: npt.NDArray[np.bool_] | None) -> tuple[_Rows, _Rows]:
    """Find rows that are copies of an earlier one -> the rows, ascending, and the first of the copies of each."""
    distances, ids = found
    good = ids >= 0
    farthest = np.where(good, distances, -np.inf).max(axis=1, keepdims=True)
    # Of those that are as far as the farthest, some may not have been found.
    good &= distances < farthest
    if live is not None:
        good[good] = live[ids[good] // POINTS_A_ROW]
    rows = ids[good] // POINTS_A_ROW
    if not len(rows):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    point = np.nonzero(good)[0].astype(np.uint64)
    each = _mixed(Copies.alike((distances[good], ids[good])).astype(np.uint64) ^ _mixed(point))
    order = np.argsort(rows, kind="stable")
    held, starts, counts = np.unique(rows[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(each[order], starts)[counts >= _FEWEST]
    held = held[counts >= _FEWEST]
    _, first, which = np.unique(sums, return_index=True, return_inverse=True)
    firsts = held[first[which]]
    moved = firsts != held
    return held[moved], firsts[moved]


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Make numbers of numbers, whose sums tell sets of these apart (splitmix64)."""
    numbers = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _first_of_each(ids: _Rows) -> npt.NDArray[np.bool_]:
    """Which ids are the first of their value in a row; none is that is negative: bool (n, k)."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, 1)
    new = np.ones(ids.shape, np.bool_)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, 1)
    return first & (ids >= 0)
