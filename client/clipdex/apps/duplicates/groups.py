"""Groups of duplicates, built from pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.search.cosines import agree

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
    found = [np.empty((0, 2), dtype=np.int64)]
    if not near.any():
        return found[0]
    rows = np.arange(down, down + near.shape[0])
    columns = np.arange(across, across + near.shape[1])
    parent[rows], parent[columns] = _least(parent, rows), _least(parent, columns)
    i, j = np.nonzero(near & (parent[rows][:, None] != parent[columns]))
    while len(i):
        one, other = _least(parent, rows[i]), _least(parent, columns[j])
        apart = np.flatnonzero(one != other)
        i, j, one, other = i[apart], j[apart], one[apart], other[apart]
        # Each greater root goes under one smaller: no cycle, and at most half as many sets each time.
        greater, which = np.unique(np.maximum(one, other), return_index=True)
        parent[greater] = np.minimum(one, other)[which]
        found.append(np.stack([rows[i[which]], columns[j[which]]], axis=1))
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

Floats = npt.NDArray[np.float32]


def close_pairs(
    vectors: Array, rows: Rows, cosine: float, progress: Callable[[int, int], None] | None = None
) -> Rows:
    """Find pairs of positions in `rows` whose vectors have at least this cosine: int64 (m, 2), m < len(rows).

    There may be n² such pairs; those returned are enough to give the same connected components.

    vectors: (N, D), as in the index. The work is n² × D multiplications: all are compared with all.
    progress: called with the number of rows done and of all.
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
    """Return one row's cosines with m others, which are read block by block: float32 (m,)."""
    (own,) = _unit(vectors[[one]])
    blocks = (others[start : start + _BLOCK] for start in range(0, len(others), _BLOCK))
    return np.concatenate([np.empty(0, dtype=np.float32), *(_unit(vectors[block]) @ own for block in blocks)])


def _unit(block: Array) -> Floats:
    """Return rows as float32 of norm 1, which float16 rows have only up to rounding."""
    wide = block.astype(np.float32)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.maximum(norms, 1e-12), dtype=np.float32)
