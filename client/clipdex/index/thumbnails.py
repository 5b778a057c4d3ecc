"""thumbnails.sqlite: small JPEGs of items, which have no file of their own, by the hash of their content.

It is a side file: without it nothing but thumbnails is missing. They are on disk before the rows that they show.
A removed item's thumbnail stays until the index is compacted, as its row does.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from clipdex.base.errors import IndexDamaged
from clipdex.index.checksum import is_sound, record_crc32c
from clipdex.index.schema import DAMAGE, fetched, require_still, unreadable, was_refused
from clipdex.index.side.database import make_database, open_database, transaction
from clipdex.index.wal import wal_damage

__all__ = ["LARGEST_THUMBNAIL", "THUMBNAILS_FILE", "ThumbnailStore", "thumbnail_damages"]

THUMBNAILS_FILE = "thumbnails.sqlite"
LARGEST_THUMBNAIL = 24 << 10  # bytes

_TABLE = (
    "CREATE TABLE thumbnails (content_hash BLOB PRIMARY KEY, jpeg BLOB NOT NULL, crc32c INTEGER NOT NULL) STRICT"
)
_OBJECTS = {
    ("table", "thumbnails", "thumbnails", _TABLE),
    ("index", "sqlite_autoindex_thumbnails_1", "thumbnails", None),
}


class ThumbnailStore:
    """The open database. Safe to share between threads; close it."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db
        self._lock = threading.Lock()

    @classmethod
    def open(cls, directory: Path, *, write: bool = False) -> ThumbnailStore | None:
        """Open the thumbnails of an index; None if there are none yet. write: create them.

        Raises:
            IndexDamaged: it is damaged, or no such file.
            IndexWriteError: it cannot be opened for writing.
            IndexFault: the system refuses to read it now.
        """
        path = directory / THUMBNAILS_FILE
        if not os.path.lexists(path):
            if not write:
                return None
            make_database(path, lambda db: db.execute(_TABLE))
        there = True

        def accept(db: sqlite3.Connection) -> None:
            nonlocal there
            found = set(db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall())
            if not found and write:
                db.execute(_TABLE)
            elif not found:
                there = False  # its writer has not come further
            elif found != _OBJECTS:
                raise IndexDamaged(f"{path}: has other tables than the thumbnails of an index: remove it")

        db = open_database(path, accept, write=write, anew="remove both files")
        if there:
            return cls(path, db)
        db.close()
        return None

    def get(self, content_hash: bytes) -> bytes | None:
        """Return the JPEG of a content; None if there is none, or it is damaged.

        Raises:
            IndexFault: it cannot be read.
        """
        sql = "SELECT content_hash, jpeg, crc32c FROM thumbnails WHERE content_hash = ?"
        with self._lock:
            found = fetched(self._db, self._path, sql, (content_hash,))
        return found[0][1] if found and _is_sound(found[0]) else None

    def add(self, thumbnails: Mapping[bytes, bytes]) -> None:
        """Add JPEGs by their content's hash, in one transaction that is on disk when this returns.

        Raises:
            IndexWriteError: the disk is full or failed; none was added.
        """
        with transaction(self._path, self._db, self._lock):
            self._db.executemany(
                "INSERT OR REPLACE INTO thumbnails (content_hash, jpeg, crc32c) VALUES (?, ?, ?)",
                [(key, jpeg, record_crc32c(key, jpeg)) for key, jpeg in thumbnails.items()],
            )

    def damages(self) -> list[str]:
        """Compare every record with its checksum -> what is wrong."""
        try:
            with self._lock:
                # Page by page: the records of a large collection do not fit memory.
                pages = [text for (text,) in self._db.execute("PRAGMA integrity_check(1)") if text != "ok"]
                rows: Iterable[tuple[object, object, object]] = self._db.execute(
                    "SELECT content_hash, jpeg, crc32c FROM thumbnails"
                )
                wrong = sum(not _is_sound(row) for row in rows)
                require_still(self._db)
        except DAMAGE as exc:
            if was_refused(exc):
                raise unreadable(self._path, exc) from exc
            return [f"{THUMBNAILS_FILE}: cannot be read: {exc}"]
        found = [f"{THUMBNAILS_FILE}: {text}" for text in pages]
        return found + ([f"{THUMBNAILS_FILE}: {wrong:,} thumbnails are not what was stored"] if wrong else [])

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()


def thumbnail_damages(directory: Path) -> list[str]:
    """Check the thumbnails of an index -> what is wrong. Raises IndexFault if the system refuses to read them."""
    try:
        lost = wal_damage(directory / THUMBNAILS_FILE)
        found = [] if lost is None else [lost]
        store = ThumbnailStore.open(directory)
    except IndexDamaged as exc:
        return [str(exc)]
    if store is None:
        return found
    try:
        return found + store.damages()
    finally:
        store.close()


def _is_sound(record: tuple[object, object, object]) -> bool:
    key, jpeg, crc32c = record
    return (
        isinstance(key, bytes)
        and isinstance(jpeg, bytes)
        and len(jpeg) <= LARGEST_THUMBNAIL
        and is_sound(crc32c, key, jpeg)
    )
