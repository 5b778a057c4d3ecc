"""From pairs to groups: which pictures are copies of which one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ["Duplicate", "DuplicateGroup", "components", "keepers_first", "stars"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Duplicate:
    """One picture of a group.

    relation: to the group's keeper: "exact" (the same bytes), "near" (looks the same), "semantic" (means the
    same), or "keeper" itself. similarity: 1.0 for the same bytes; else as measured, of signatures or vectors.
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

    def related(self, relation: str, similarity: float) -> Duplicate:
        """The same picture, as another one's duplicate."""
        return replace(self, relation=relation, similarity=similarity)


@dataclass(frozen=True)
class DuplicateGroup:
    """The picture to keep, and those that are duplicates of it, each compared with it directly."""

    keeper: Duplicate
    others: tuple[Duplicate, ...]

    def __len__(self) -> int:
        return 1 + len(self.others)


def keepers_first(pictures: Sequence[Duplicate]) -> list[Duplicate]:
    """The largest first (in pixels); of those the oldest, then that with the shortest path."""
    return sorted(pictures, key=lambda p: (-p.width * p.height, p.mtime_ns, len(p.path), p.path))


def components(pairs: Rows, count: int) -> list[Rows]:
    """The sets of two or more numbers below `count` that hang together through pairs (m, 2), by their least."""
    parent = np.arange(count, dtype=np.int64)
    one, other = pairs[:, 0], pairs[:, 1]
    while True:
        low = np.minimum(parent[one], parent[other])
        before = parent.copy()
        np.minimum.at(parent, one, low)
        np.minimum.at(parent, other, low)
        np.minimum.at(parent, before[one], low)  # and what they hung on
        np.minimum.at(parent, before[other], low)
        while not np.array_equal(shorter := parent[parent], parent):
            parent = shorter
        if np.array_equal(parent, before):
            break
    members = np.flatnonzero(np.bincount(parent, minlength=count)[parent] > 1)
    members = members[np.argsort(parent[members], kind="stable")]
    borders = np.flatnonzero(np.diff(parent[members])) + 1
    return [part for part in np.split(members, borders) if len(part)]


def stars(ordered: Rows, alike: Callable[[int, Rows], npt.NDArray[np.bool_]]) -> list[Rows]:
    """Cut what hangs together into groups whose members are all like their first: a chain is no group.

    ordered: the members, the best keeper first. alike: which of some members are like one: -> bool (m,).
    """
    groups, left = [], ordered
    while len(left) > 1:
        first, rest = int(left[0]), left[1:]
        like = alike(first, rest)
        if like.any():
            groups.append(np.concatenate([left[:1], rest[like]]))
        left = rest[~like]
    return groups
