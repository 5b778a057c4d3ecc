"""What a collection holds, read: single pictures, pages of them, counts and facts of the index."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from clipdex.base.arguments import is_count
from clipdex.base.arrays import Vectors
from clipdex.base.errors import InvalidArgument, ItemNotFound
from clipdex.base.item_paths import id_of_path
from clipdex.base.records import Failure
from clipdex.collection.core import Core, Key
from clipdex.collection.item import Commit, StoredItem, stored_item
from clipdex.index.info import IndexInfo
from clipdex.index.manifest import Manifest
from clipdex.index.side.feature_file import has_features
from clipdex.index.side.feature_state import features_state

__all__ = ["StoredPictures"]

_PAGE = 1_000  # pictures read at once


class StoredPictures:
    """The part of a collection that only reads its index. Safe to share between threads."""

    _core: Core
    directory: Path

    def get(self, item: Key) -> StoredItem | None:
        """Return an item by its id, or another picture by its path or row; None if there is none."""
        with self._core.reading() as index:
            try:
                row = self._core.row(index, item)
            except ItemNotFound:
                return None
            return stored_item(row, index.picture(row), self.directory)

    def vector(self, item: Key) -> Vectors:
        """Return the vector of a picture: float32 (D,). Raises ItemNotFound if there is no such picture."""
        with self._core.reading() as index:
            return index.vector(self._core.row(index, item))

    def thumbnail(self, item: Key) -> bytes | None:
        """Return the JPEG kept of an item, of 320 × 320 pixels and 24 KiB at most; None if there is none.

        Raises:
            ItemNotFound: there is no such item.
        """
        with self._core.reading() as index:
            row = self._core.row(index, item)
            return index.thumbnail(index.picture(row).content_hash)

    def __contains__(self, item: object) -> bool:
        return isinstance(item, (str, int, os.PathLike)) and self.get(item) is not None

    def __len__(self) -> int:
        """Return the number of pictures: items, and those of folders."""
        with self._core.reading() as index:
            return len(index)

    def seen(self) -> int:
        """Return the number of pictures as of the last search or read, without a look for new commits."""
        with self._core.still(self._core.index.generation) as index:
            if index is not None:
                return len(index)
        return len(self)

    def ids(self) -> Iterator[str]:
        """Iterate over the ids of all items, in the order of their rows."""
        return (found for path in self.paths() if (found := id_of_path(path)) is not None)

    def __iter__(self) -> Iterator[StoredItem]:
        """Iterate over the present pictures in the order of their rows, without any that are removed meanwhile."""
        paths = self.paths()
        for start in range(0, len(paths), _PAGE):
            yield from self.page(paths[start : start + _PAGE])

    def paths(self) -> list[bytes]:
        """List the paths of all pictures in the index, by row."""
        with self._core.reading() as index:
            return [path for _, path in index.live_paths()]

    def page(self, paths: Sequence[bytes]) -> list[StoredItem]:
        """Return the pictures with these paths in the index that still exist."""
        with self._core.reading() as index:
            known = [found for path in paths if (found := index.known(path)) is not None]
            rows = [found.row for found in known if found.row is not None and found.row < len(index.vectors)]
            pictures = index.pictures(rows)
            return [stored_item(row, pictures[row], self.directory) for row in rows]

    def after(self, row: int, limit: int) -> list[StoredItem]:
        """Return the next `limit` pictures after a row, or fewer at the end, by row; -1 for the first.

        Raises:
            InvalidArgument: `row` is not a whole number of -1 or more, or `limit` not one of 1 or more.
        """
        if not is_count(row, -1):
            raise InvalidArgument(f"row is {row!r:.60}; expected a row, or -1 for the first pictures")
        if not is_count(limit, 1):
            raise InvalidArgument(f"limit is {limit!r:.60}; expected a whole number of pictures, 1 or more")
        with self._core.reading() as index:
            rows: list[int] = []
            start = max(0, row + 1)
            while start < len(index.vectors) and len(rows) < limit:
                end = start + max(_PAGE, limit)
                rows += [each for each, _ in index.live_paths(start, end)]
                start = end
            rows = rows[:limit]
            pictures = index.pictures(rows)
            return [stored_item(each, pictures[each], self.directory) for each in rows]

    def at(self, rows: Sequence[int]) -> dict[int, StoredItem]:
        """Return the present pictures in these rows, by row."""
        with self._core.reading() as index:
            alive = np.asarray(rows, np.int64)
            alive = alive[(alive < len(index.vectors)) & ~np.isin(alive, index.tombstones)]
            pictures = index.pictures(alive.tolist())
            return {row: stored_item(row, picture, self.directory) for row, picture in pictures.items()}

    def failures(self, limit: int, offset: int = 0) -> list[Failure]:
        """Return lines of the ledger: files that could not be indexed, by path."""
        with self._core.reading() as index:
            return index.failures_page(limit, offset)

    def moment(self) -> tuple[object, int]:
        """Return a value that another commit, by any process, makes another one."""
        with self._core.reading() as index:
            return index.generation, index.version

    def features_state(self) -> object:
        """Return a value that other local features, or neighbours of them, make another one, as no commit does.

        Raises:
            IndexFault: they cannot be read.
        """
        with self._core.reading() as index:
            return [features_state(part.directory) for _, part in index.pieces()]

    def has_local_features(self) -> bool:
        """Return whether any picture has local features, by which `match` finds it."""
        with self._core.reading() as index:
            return any(has_features(part.directory) for _, part in index.pieces())

    def info(self) -> IndexInfo:
        """Summarise the index: counts, size and dates."""
        with self._core.reading() as index:
            return index.info()

    @property
    def manifest(self) -> Manifest:
        """The identity of the index: the model, width and dtype of its vectors."""
        return self._core.index.manifest

    def state(self) -> Commit:
        """Return the number of pictures and rows now, as a Commit."""
        with self._core.reading() as index:
            return Commit(len(index), len(index.vectors))
