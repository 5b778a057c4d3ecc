"""Groups of duplicates, built from pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clipdex.apps.duplicates.cells import Cells, cells_of
from clipdex.apps.duplicates.projection import Projection, projection_of
from clipdex.base.arrays import Array
from clipdex.search.cosines import ROUNDING, agree

__all__ = [
    "Duplicate",
    "DuplicateGroup",
    "Placement",
    "close_pairs",
    "components",
    "cosines",
    "joining",
    "keepers_first",
    "stars",
]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """Which region of a duplicate is which of its keeper.

    points: how many local features agree. mirrored: left and right are exchanged. of_keeper, of_duplicate: the
    corners of the region in either, three to eight, in shares of the width and height; in the same order.
    """

    points: int
    mirrored: bool
    of_keeper: tuple[tuple[float, float], ...]
    of_duplicate: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Duplicate:
    """One picture of a group.

    relation: to the group's keeper: "exact" (the same bytes), "near" (looks the same), "semantic" (close
    vectors), "local" (one shows a part of the other, or all), or "keeper" itself. similarity: 1.0 for the same
    bytes; else as measured, of signatures or vectors, or the share of the local features that agree.
    cosine: cosine similarity of its vector to the keeper's; 1.0 for the same bytes. placement: of "local" only.
    """

    row: int
    path: str
    width: int
    height: int
    size: int
    mtime_ns: int
    content_hash: bytes
    relation: str = "keeper"
    similarity: float = 1.0
    cosine: float = 1.0
    placement: Placement | None = None

    def related(
        self, relation: str, similarity: float, cosine: float, placement: Placement | None = None
    ) -> Duplicate:
        """Return the picture as the duplicate of another one."""
        return replace(self, relation=relation, similarity=similarity, cosine=cosine, placement=placement)


@dataclass(frozen=True)
class DuplicateGroup:
    """A picture to keep, and its duplicates, each compared with it directly."""

    keeper: Duplicate
    others: tuple[Duplicate, ...]

    def __len__(self) -> int:
        return 1 + len(self.others)


def keepers_first(pictures: Sequence[Duplicate]) -> list[Duplicate]:
    """Sort pictures, the best to keep first: the largest (in pixels), then the oldest, then the shortest path."""
    return sorted(pictures, key=lambda p: (-p.width * p.height, p.mtime_ns, len(p.path), p.path))


def components(pairs: Rows, count: int) -> list[Rows]:
    """Return the connected components of numbers below `count` under pairs (m, 2), except single numbers.

    They are sorted by their smallest members.
    """
    parent = np.arange(count, dtype=np.int64)
    one, other = pairs[:, 0], pairs[:, 1]
    while True:
        low = np.minimum(parent[one], parent[other])
        before = parent.copy()
        np.minimum.at(parent, one, low)
        np.minimum.at(parent, other, low)
        np.minimum.at(parent, before[one], low)  # and their former parents
        np.minimum.at(parent, before[other], low)
        while not np.array_equal(shorter := parent[parent], parent):
            parent = shorter
        if np.array_equal(parent, before):
            break
    members = np.flatnonzero(np.bincount(parent, minlength=count)[parent] > 1)
    members = members[np.argsort(parent[members], kind="stable")]
    borders = np.flatnonzero(np.diff(parent[members])) + 1
    return [part for part in np.split(members, borders) if len(part)]


def joining(parent: Rows, down: int, across: int, near: npt.NDArray[np.bool_]) -> Rows:
    """Return the pairs that connect two sets not connected before: int64 (m, 2). They never form a cycle.

    parent: for each number a smaller one of its set, or itself, as at first; it is updated.
    near: bool (a, b), whether numbers down + i and across + j are a pair.
    """
    if not near.any():
        return np.empty((0, 2), dtype=np.int64)
    rows = np.arange(down, down + near.shape[0])
    columns = np.arange(across, across + near.shape[1])
    parent[rows], parent[columns] = _least(parent, rows), _least(parent, columns)
    i, j = np.nonzero(near & (parent[rows][:, None] != parent[columns]))
    return _forest(parent, rows[i], columns[j])


def _forest(parent: Rows, one: Rows, other: Rows) -> Rows:
    """Return those of the pairs (one, other) that connect sets not connected before: int64 (m, 2).

    See `joining`.
    """
    found = [np.empty((0, 2), dtype=np.int64)]
    while len(one):
        left, right = _least(parent, one), _least(parent, other)
        apart = np.flatnonzero(left != right)
        one, other, left, right = one[apart], other[apart], left[apart], right[apart]
        # Each greater root goes under one smaller: no cycle, and at most half as many sets each time.
        greater, which = np.unique(np.maximum(left, right), return_index=True)
        parent[greater] = np.minimum(left, right)[which]
        found.append(np.stack([one[which], other[which]], axis=1))
    return np.concatenate(found)


def _least(parent: Rows, numbers: Rows) -> Rows:
    """Return the smallest known member of each number's set."""
    while not np.array_equal(above := parent[numbers], numbers):
        numbers = above
    return numbers


def stars(ordered: Rows, alike: Callable[[int, Rows], npt.NDArray[np.bool_]]) -> list[Rows]:
    """Cut a connected component into groups whose members are all like their first: a chain is no group.

    ordered: the members, the best to keep first. alike: compares one member with others: -> bool (m,).
    """
    groups, left = [], ordered
    while len(left) > 1:
        first, rest = int(left[0]), left[1:]
        like = alike(first, rest)
        if like.any():
            groups.append(np.concatenate([left[:1], rest[like]]))
        left = rest[~like]
    return groups


_BLOCK = 4096
_STRIP = 256  # rows of a block whose pairs are written out at once
_A_PAIR = 16  # a cosine of two vectors, in those of a product of matrices
_SMALL = 1024  # rows and columns of a block of bounds, which stays in the cache

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


def close_pairs(vectors: Array, rows: Rows, cosine: float, progress: Progress | None = None) -> Rows:
    """Find pairs of positions in `rows` whose vectors have at least this cosine: int64 (m, 2), m < len(rows).

    There may be n² such pairs; those returned are enough to give the same connected components.

    All are compared with all, by a few numbers of each, which tell that most pairs are not close; only the others
    are compared by their vectors. If that would be nearly all, they are, without the few numbers.

    vectors: (N, D), as in the index. progress: called with the number of rows done and of all.
    """

    def read(positions: Rows) -> Floats:
        return _unit(vectors[rows[positions]])

    if len(rows) > _BLOCK:
        projection = projection_of(len(rows), read, _least_cosine(cosine), _SMALL)
        if projection is not None:
            return _pairs_by_bounds(projection, read, cosine, progress)
    return _pairs_of_all(read, len(rows), cosine, progress)


def _least_cosine(cosine: float) -> float:
    """The least cosine that agrees with this one."""
    return cosine - 2 * ROUNDING


def _pairs_by_bounds(
    projection: Projection, read: Callable[[Rows], Floats], cosine: float, progress: Progress | None
) -> Rows:
    least = _least_cosine(cosine) - projection.slack
    cells = cells_of(projection.points, least, projection.slack)
    if cells is not None:
        forest = _Forest(cells.points, projection.order[cells.order], least, read, cosine)
        _compare_cells(cells, forest, progress)
        return forest.pairs()
    order, points = projection.order, projection.points
    forest = _Forest(points, order, least, read, cosine)
    for start in range(0, len(order), _SMALL):
        end = projection.reach(min(start + _SMALL, len(order)) - 1, least)
        for other in range(start, end, _SMALL):
            forest.compare(start, min(start + _SMALL, len(order)), other, min(other + _SMALL, len(order)))
        if progress is not None:
            progress(min(start + _SMALL, len(order)), len(order))
    return forest.pairs()


def _compare_cells(cells: Cells, forest: _Forest, progress: Progress | None) -> None:
    for first, end, near in cells.compared():
        for start in range(first, end, _SMALL):
            stop = min(start + _SMALL, end)
            for other in range(start, end, _SMALL):
                forest.compare(start, stop, other, min(other + _SMALL, end))
            step = _SMALL * _SMALL // (stop - start)
            left = forest.unconnected(start, stop, near)
            for at in range(0, len(left), step):
                forest.compare_some(start, stop, left[at : at + step])
        if progress is not None and first < end:
            progress(end, len(cells.order))


class _Forest:
    """Pairs of close points, of which only those are kept that connect what was not connected before.

    points: float32 (n, d), whose products bound the cosines: close ones have at least `least`. order: int64 (n,),
    what `read` knows them by.
    """

    def __init__(
        self, points: Floats, order: Rows, least: float, read: Callable[[Rows], Floats], cosine: float
    ) -> None:
        self._points, self._order, self._least = points, order, least
        self._read, self._cosine = read, cosine
        self._parent = np.arange(len(order), dtype=np.int64)
        self._found = [np.empty((0, 2), dtype=np.int64)]
        self._bounds = np.empty(_SMALL * _SMALL, np.float32)

    def pairs(self) -> Rows:
        """Return the pairs found so far: int64 (m, 2)."""
        return np.concatenate(self._found)

    def unconnected(self, start: int, end: int, others: Rows) -> Rows:
        """Return those of the others that are not known to be connected with all of the points [start, end)."""
        own = _least(self._parent, np.arange(start, end))
        return others if (own != own[0]).any() else others[_least(self._parent, others) != own[0]]

    def compare(self, start: int, end: int, other: int, last: int) -> None:
        """Compare points [start, end) with [other, last), which begin no earlier."""
        if not len(self.unconnected(start, end, np.arange(other, last))):
            return
        i, j = self._near(self._points[start:end], self._points[other:last])
        self._add(start + i, other + j, ordered=True)

    def compare_some(self, start: int, end: int, others: Rows) -> None:
        """Compare points [start, end) with others, none of which is among them."""
        i, j = self._near(self._points[start:end], self._points[others])
        self._add(start + i, others[j])

    def _near(self, mine: Floats, theirs: Floats) -> tuple[Rows, Rows]:
        out = self._bounds[: len(mine) * len(theirs)].reshape(len(mine), len(theirs))
        bounds = np.matmul(mine, theirs.T, out=out)
        i, j = np.divmod(np.flatnonzero(bounds >= self._least), len(theirs))
        return i, j

    def _add(self, i: Rows, j: Rows, *, ordered: bool = False) -> None:
        apart = _least(self._parent, i) != _least(self._parent, j)
        left = np.flatnonzero(apart & (i < j) if ordered else apart)
        if not len(left):
            return
        i, j = i[left], j[left]
        (down, at), (across, beside) = (np.unique(some, return_inverse=True) for some in (i, j))
        mine, theirs = self._read(self._order[down]), self._read(self._order[across])
        if len(i) * _A_PAIR < len(down) * len(across):
            cosines = np.concatenate(
                [
                    np.einsum("ij,ij->i", mine[at[k : k + _SMALL]], theirs[beside[k : k + _SMALL]])
                    for k in range(0, len(i), _SMALL)
                ]
            )
        else:
            cosines = (mine @ theirs.T)[at, beside]
        true = agree(cosines, self._cosine)
        pairs = _forest(self._parent, i[true], j[true])
        if len(pairs):
            self._found.append(self._order[pairs])


def _pairs_of_all(read: Callable[[Rows], Floats], count: int, cosine: float, progress: Progress | None) -> Rows:
    found = [np.empty((0, 2), dtype=np.int64)]
    parent = np.arange(count, dtype=np.int64)
    for start in range(0, count, _BLOCK):
        mine = read(np.arange(start, min(count, start + _BLOCK)))
        for other in range(start, count, _BLOCK):
            theirs = mine if other == start else read(np.arange(other, min(count, other + _BLOCK)))
            near = agree(mine @ theirs.T, cosine)
            for first in range(0, len(near), _STRIP):
                pairs = joining(parent, start + first, other, near[first : first + _STRIP])
                if len(pairs):
                    found.append(pairs)
        if progress is not None:
            progress(min(start + _BLOCK, count), count)
    return np.concatenate(found)


def cosines(vectors: Array, one: int, others: Rows) -> Floats:
    """Return one row's cosines with m others, which are read block by block: float32 (m,)."""
    (own,) = _unit(vectors[[one]])
    blocks = (others[start : start + _BLOCK] for start in range(0, len(others), _BLOCK))
    return np.concatenate([np.empty(0, dtype=np.float32), *(_unit(vectors[block]) @ own for block in blocks)])


def _unit(block: Array) -> Floats:
    """Return rows as float32 of norm 1, which float16 rows have only up to rounding."""
    wide = block.astype(np.float32)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.maximum(norms, 1e-12), dtype=np.float32)
