"""What a collection on a vector database holds, read; and what only an index can tell, refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from clipdex.base.errors import InvalidArgument, ItemNotFound
from clipdex.base.records import Failure
from clipdex.collection.core import Key
from clipdex.collection.database_core import DatabaseCore
from clipdex.collection.item import Commit, Item, StoredItem, stored_item
from clipdex.collection.stored_pictures import StoredPictures
from clipdex.index.info import IndexInfo
from clipdex.index.manifest import Manifest
from clipdex.sinks.stored import NO_ROW, PointId

__all__ = ["DatabasePictures"]


class DatabasePictures(StoredPictures):
    """The part of a collection that reads a vector database, in place of the part that reads an index.

    A picture has row -1, no content hash, and a time in microseconds.
    """

    _core: DatabaseCore

    def get(self, item: Key) -> StoredItem | None:
        """Return an item by its id, or another picture by its path; None if there is none."""
        with self._core.reading() as stored:
            try:
                return stored_item(NO_ROW, stored.picture(self._core.row(stored, item)), self._core.place)
            except ItemNotFound:
                return None

    def seen(self) -> int:
        """Return the number of pictures: a database is asked anew each time."""
        return len(self)

    def ids(self) -> Iterator[str]:
        """Iterate over the ids of all items, in an order of the database's own."""
        return (found.id for found in self if found.id is not None)

    def paths(self) -> list[bytes]:
        """List what `page` takes: the ids of all points."""
        with self._core.reading() as stored:
            return [each.encode() for each in stored.points()]

    def page(self, paths: Sequence[bytes]) -> list[StoredItem]:
        """Return the pictures of points that still exist."""
        with self._core.reading() as stored:
            points = [PointId(each.decode()) for each in paths]
            return [stored_item(NO_ROW, each, self._core.place) for each in stored.pictures(points)]

    @property
    def manifest(self) -> Manifest:
        """The model and width of the vectors."""
        return self._core.stored.manifest

    # What a database does not know

    def thumbnail(self, item: Key) -> bytes | None:
        """Raise InvalidArgument: thumbnails are not pushed."""
        self._refuse("has no thumbnails")

    def after(self, row: int, limit: int) -> list[StoredItem]:
        """Raise InvalidArgument: there are no rows."""
        self._refuse("knows no rows")

    def at(self, rows: Sequence[int]) -> dict[int, StoredItem]:
        """Raise InvalidArgument: there are no rows."""
        self._refuse("knows no rows")

    def failures(self, limit: int, offset: int = 0) -> list[Failure]:
        """Raise InvalidArgument: failures are not pushed."""
        self._refuse("has no ledger of failures")

    def moment(self) -> tuple[object, int]:
        """Raise InvalidArgument: a database does not tell when it changed."""
        self._refuse("does not tell when it changed")

    def features_state(self) -> object:
        """Raise InvalidArgument: local features are not pushed."""
        self._refuse("has no local features")

    def has_local_features(self) -> bool:
        """Return False: they are not pushed."""
        self._core.require_open()
        return False

    def info(self) -> IndexInfo:
        """Raise InvalidArgument: it is no index."""
        self._refuse("has no facts of an index")

    def state(self) -> Commit:
        """Raise InvalidArgument: there are no commits."""
        self._refuse("has no commits")

    def watcher(self, poll_s: float) -> Callable[[], Commit | None]:
        """Raise InvalidArgument: there are no commits."""
        self._refuse("has no commits")

    def holds(self, item: Item) -> bool:
        """Raise InvalidArgument: the hashes of pictures are not pushed."""
        self._refuse("has no hashes of pictures")

    def _refuse(self, what: str) -> NoReturn:
        self._core.require_open()
        raise InvalidArgument(f"{self._core.place} {what}: open the index itself for that")
