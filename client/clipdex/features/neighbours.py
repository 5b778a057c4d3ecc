"""The nearest descriptors of an index's pictures: by the file that `features build` makes, else exactly.

A descriptor has an id: the row of its picture times 16,384, plus its number among the picture's points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipdex.base.counting import counted
from clipdex.base.errors import IndexFault, MissingExtra
from clipdex.base.extras import needs
from clipdex.features.neighbour_file import NEIGHBOURS_FILE, NeighbourFile
from clipdex.features.pairs import numbers
from clipdex.features.store import FeatureStore
from clipdex.index.files import identity
from clipdex.index.reader import Index
from clipdex.index.side.neighbour_footer import POINTS_A_ROW

__all__ = [
    "POINTS_A_ROW",
    "Exact",
    "Found",
    "Neighbours",
    "StoredNeighbours",
    "import_faiss",
    "nearest",
    "numbered",
]

PROBES = 8
_AT_ONCE = 8192

Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
_Rows = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]


class Neighbours(Protocol):
    """Finds the nearest descriptors."""

    def search(self, descriptors: _Bytes, k: int) -> Found:
        """Find the k nearest of each -> squared distances float32 (n, k), inf for none; ids int64 (n, k), -1."""
        ...


class Exact:
    """Compares all of them, a block at a time. blocks: called for each search; (ids int64 (m,), bytes (m, w))."""

    def __init__(self, blocks: Iterable[tuple[_Rows, _Bytes]]) -> None:
        self._blocks = blocks

    def search(self, descriptors: _Bytes, k: int) -> Found:
        """Find the k nearest; see `Neighbours`."""
        return nearest(descriptors, k, self._blocks)


class StoredNeighbours:
    """The descriptors of an open index: by the files of its parts, and exactly those that no file has.

    exact: the pictures that no file has. faults: why a file is not used, a sentence each.
    """

    def __init__(self, index: Index, store: FeatureStore) -> None:
        self._store = store
        self._files: list[tuple[int, NeighbourFile]] = []
        self.faults: list[str] = []
        pieces = index.pieces()
        # Before they are opened: a file that replaces one in between is seen as new.
        paths = [part.directory / NEIGHBOURS_FILE for _, part in pieces]
        self._seen = [(path, identity(path)) for path in paths]
        covered = np.zeros(len(index.vectors), np.bool_)
        for first, part in pieces:
            try:
                file = NeighbourFile.open(import_faiss, part.directory, part.extents(), store.recipe.width)
            except (IndexFault, MissingExtra) as exc:  # nothing is missed without it, but time
                self.faults.append(str(exc))
                continue
            if file is not None:
                self._files.append((first, file))
                some = file.covered[: len(part.vectors)]
                covered[first : first + len(some)] = some
        self._left: _Rows | None = None
        if len(pieces) == 1 and self._files and self._files[0][1].footer.stamp == store.stamp:
            self._left = np.empty(0, np.int64)  # without a look at all rows
        elif self._files:
            self._left = store.rows[~covered[store.rows]]
        self.exact = len(store.rows if self._left is None else self._left)
        self._held: list[tuple[_Rows, _Bytes]] | None = None

    def hold(self, most: int) -> None:
        """Keep in memory what is compared exactly, for many searches.

        Raises:
            IndexFault: these are more than `most` descriptors, so that many searches would take too long.
        """
        held: list[tuple[_Rows, _Bytes]] = []
        for ids, some in self._uncovered():
            held.append((ids, some))
            if sum(len(each) for each, _ in held) > most:
                raise IndexFault(self._why_many_are_exact())
        if held:
            held = [(np.concatenate([ids for ids, _ in held]), np.concatenate([some for _, some in held]))]
        self._held = held

    def _why_many_are_exact(self) -> str:
        kind = self._store.kind
        if kind != "sift":
            return (
                f"local features of the kind {kind} are compared with all others, and there are too many: "
                "make those of sift with  clipdex features build --rebuild --kind sift"
            )
        many = f"{counted(self.exact, 'picture')} {'is' if self.exact == 1 else 'are'} in no file of neighbours"
        return "; ".join([f"{many}: run  clipdex features build  first", *self.faults])

    def is_current(self) -> bool:
        """Return whether no part has had a file, or another file, since they were opened."""
        return all(identity(path) == seen for path, seen in self._seen)

    def search(self, descriptors: _Bytes, k: int, check: Callable[[], None] = lambda: None) -> Found:
        """Find the k nearest; see `Neighbours`. check: called now and then; what it raises ends the search."""
        best = _nothing(len(descriptors), k)
        asked = numbers(descriptors)
        for first, file in self._files:
            distances, ids = file.search(asked, k, PROBES)
            ids = np.where((ids >= 0) & (ids < file.footer.rows * POINTS_A_ROW), ids + first * POINTS_A_ROW, -1)
            best = _better(best, (np.where(ids < 0, np.inf, distances), ids), k)
        if self._left is None or len(self._left):
            blocks = self._uncovered() if self._held is None else self._held
            best = _better(best, nearest(descriptors, k, _watched(blocks, check)), k)
        return best

    def _uncovered(self) -> Iterator[tuple[_Rows, _Bytes]]:
        if self._left is None:
            yield from (numbered(*block) for block in self._store.blocks())
            return
        for row in self._left.tolist():
            found = self._store.of(row)
            if found is not None and len(found):
                yield np.arange(len(found)) + row * POINTS_A_ROW, found.descriptors


def _watched(blocks: Iterable[tuple[_Rows, _Bytes]], check: Callable[[], None]) -> Iterator[tuple[_Rows, _Bytes]]:
    for block in blocks:
        check()
        yield block


def numbered(rows: _Rows, descriptors: _Bytes) -> tuple[_Rows, _Bytes]:
    """Give the descriptors of whole pictures, whose rows follow each other, their ids."""
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    counts = np.diff(np.append(starts, len(rows)))
    points = np.arange(len(rows)) - np.repeat(starts, counts)
    return rows * POINTS_A_ROW + points, descriptors


def nearest(descriptors: _Bytes, k: int, blocks: Iterable[tuple[_Rows, _Bytes]]) -> Found:
    """Find the k nearest of each of n descriptors among all those of blocks, exactly; see `Neighbours.search`."""
    asked = numbers(descriptors)
    own = np.einsum("ij,ij->i", asked, asked)[:, None]
    best = _nothing(len(asked), k)
    for ids, some in blocks:
        for start in range(0, len(some), _AT_ONCE):
            wide = numbers(some[start : start + _AT_ONCE])
            far = own + np.einsum("ij,ij->i", wide, wide)[None] - 2 * (asked @ wide.T)
            part = np.broadcast_to(ids[start : start + _AT_ONCE], far.shape)
            best = _better(best, (np.maximum(far, 0), part), k)
    return best


def _nothing(count: int, k: int) -> Found:
    return np.full((count, k), np.inf, np.float32), np.full((count, k), -1, np.int64)


def _better(one: Found, other: Found, k: int) -> Found:
    """The k nearest of two findings, nearest first."""
    if other[0].shape[1] > 4 * k:  # before sorting
        chosen = np.argpartition(other[0], k, axis=1)[:, :k]
        other = np.take_along_axis(other[0], chosen, 1), np.take_along_axis(other[1], chosen, 1)
    distances, ids = np.concatenate([one[0], other[0]], 1), np.concatenate([one[1], other[1]], 1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)


def import_faiss() -> ModuleType:
    """Import FAISS. Raises MissingExtra if it cannot be imported."""
    with needs("faiss", "faiss-cpu", "features", "the nearest local features of many pictures"):
        import faiss
    module: ModuleType = faiss
    return module
