"""rows.sqlite: what each row is a picture of, which files failed, and how many rows are committed.

One SQLite transaction is what makes rows count. In WAL mode readers neither wait for the writer nor see
anything that it has not committed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipdex.errors import IndexDamaged, IndexFormatError, IndexWriteError

__all__ = ["ROWS_FILE", "Extent", "Failure", "KnownFile", "Picture", "RowStore"]

ROWS_FILE = "rows.sqlite"

# "clpx" in ASCII: `file rows.sqlite` and other tools can tell whose database it is.
_APPLICATION_ID = 0x636C7078
_SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE rows (
    row          INTEGER PRIMARY KEY,      -- position in the vectors file, from 0
    path         BLOB    NOT NULL,         -- absolute, as the file system spells it
    size         INTEGER NOT NULL,         -- of the file, in bytes
    mtime_ns     INTEGER NOT NULL,
    content_hash BLOB    NOT NULL,         -- BLAKE2b of the file, 16 bytes
    width        INTEGER NOT NULL,         -- of the picture as shown, in pixels
    height       INTEGER NOT NULL,
    deleted_at   INTEGER                   -- a tombstone: seconds since 1970; NULL while the row is live
) STRICT;
CREATE UNIQUE INDEX rows_by_path ON rows (path) WHERE deleted_at IS NULL;
CREATE INDEX tombstones ON rows (row) WHERE deleted_at IS NOT NULL;
CREATE TABLE extents (                     -- the commit record: one line for each commit that added rows
    first_row    INTEGER PRIMARY KEY,
    row_count    INTEGER NOT NULL,
    crc32c       INTEGER NOT NULL,         -- CRC-32C (Castagnoli) of the extent's bytes
    committed_at INTEGER NOT NULL
) STRICT;
CREATE TABLE failures (                    -- the ledger: files that could not be indexed
    path         BLOB    PRIMARY KEY,
    reason       TEXT    NOT NULL,         -- a code; docs/failures.md lists them
    detail       TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    mtime_ns     INTEGER NOT NULL,
    failed_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Picture:
    """One indexed file."""

    path: bytes
    size: int
    mtime_ns: int
    content_hash: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Failure:
    """One file in the ledger."""

    path: bytes
    reason: str
    detail: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class KnownFile:
    """What the index knows of a path: the size and time it had, and its row, or None if it failed."""

    size: int
    mtime_ns: int
    row: int | None


@dataclass(frozen=True)
class Extent:
    """Rows committed together."""

    first_row: int
    row_count: int
    crc32c: int


class RowStore:
    """A connection to rows.sqlite. Reading is safe from many threads; writing is the writer's alone."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path) -> None:
        """Write an empty database at a path where nothing is."""
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            db.executescript(_SCHEMA)
        except sqlite3.Error as exc:
            raise IndexWriteError(f"{path}: cannot be written: {exc}") from exc
        finally:
            db.close()

    @classmethod
    def open(cls, path: Path, *, write: bool) -> RowStore:
        """Open an existing database.

        Raises:
            IndexDamaged: the file is missing, or not a database.
            IndexFormatError: a database, but not an index's, or of a newer version.
        """
        if not path.is_file():
            raise IndexDamaged(f"{path}: is missing; without it nothing says which rows are committed")
        try:
            db = _connect(path, write=write)
            (application,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as exc:
            raise IndexDamaged(f"{path}: is not a sound SQLite database: {exc}") from exc
        if application != _APPLICATION_ID:
            db.close()
            raise IndexFormatError(f"{path}: is a SQLite database, but not one of a clipdex index")
        if version != _SCHEMA_VERSION:
            db.close()
            raise IndexFormatError(
                f"{path} has the format version {version}, this clipdex reads {_SCHEMA_VERSION}: "
                "install the clipdex that wrote it, or build the index again"
            )
        return cls(db, path)

    def close(self) -> None:
        """Close the connection; the writer's folds the WAL back into the file."""
        self._db.close()

    # Reading

    def committed_rows(self) -> int:
        """How many rows at the start of the vectors file count, tombstones included."""
        return self.snapshot()[0]

    def snapshot(self) -> tuple[int, list[int]]:
        """The committed rows, and the dead ones among them, ascending: both as of one moment."""
        # One statement is one moment; two could have a commit between them.
        found = self._rows(
            "SELECT -1, (SELECT first_row + row_count FROM extents ORDER BY first_row DESC LIMIT 1) "
            "UNION ALL SELECT row, 0 FROM rows WHERE deleted_at IS NOT NULL ORDER BY 1"
        )
        return int(found[0][1] or 0), [row for row, _ in found[1:]]

    def pictures(self, rows: Sequence[int]) -> dict[int, Picture]:
        """The pictures of the rows named, by row; dead ones too."""
        found: dict[int, Picture] = {}
        for start in range(0, len(rows), 500):  # SQLite takes 999 parameters on old builds
            part = [int(row) for row in rows[start : start + 500]]
            marks = ",".join("?" * len(part))
            sql = (
                "SELECT row, path, size, mtime_ns, content_hash, width, height FROM rows "  # noqa: S608
                f"WHERE row IN ({marks})"
            )
            found |= {row: Picture(*rest) for row, *rest in self._rows(sql, part)}
        return found

    def live_paths(self, below: int) -> list[tuple[int, bytes]]:
        """(row, path) of every live row among the first `below`, by row."""
        return self._rows("SELECT row, path FROM rows WHERE deleted_at IS NULL AND row < ? ORDER BY row", (below,))

    def known(self, path: bytes) -> KnownFile | None:
        """What the index knows of a path, if anything."""
        found = self._rows(
            "SELECT size, mtime_ns, row FROM rows WHERE path = ? AND deleted_at IS NULL "
            "UNION ALL SELECT size, mtime_ns, NULL FROM failures WHERE path = ?",
            (path, path),
        )
        return KnownFile(*found[0]) if found else None

    def failures(self) -> list[Failure]:
        """The ledger, by path."""
        sql = "SELECT path, reason, detail, size, mtime_ns FROM failures ORDER BY path"
        return [Failure(*row) for row in self._rows(sql)]

    def extents(self) -> list[Extent]:
        """The commit record, in order."""
        sql = "SELECT first_row, row_count, crc32c FROM extents ORDER BY first_row"
        return [Extent(*row) for row in self._rows(sql)]

    # Writing

    def commit(
        self,
        first_row: int,
        pictures: Sequence[Picture],
        crc32c: int,
        failures: Iterable[Failure],
        removed: Iterable[bytes],
    ) -> None:
        """Make rows count, in one transaction that is on disk when this returns.

        A picture takes the place of the live row and of the ledger's line of the same path; so does a
        failure. `removed` are paths that vanished.

        Raises:
            IndexWriteError: the disk refused; nothing of this commit is there.
        """
        now = int(time.time())
        bury = "UPDATE rows SET deleted_at = ? WHERE path = ? AND deleted_at IS NULL"
        forgive = "DELETE FROM failures WHERE path = ?"
        failed = list(failures)
        gone = [*(p.path for p in pictures), *(f.path for f in failed), *removed]
        with self._lock, self._transaction():
            self._db.executemany(bury, ((now, path) for path in gone))
            self._db.executemany(forgive, ((path,) for path in gone))
            self._db.executemany(
                "INSERT INTO rows (row, path, size, mtime_ns, content_hash, width, height) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (first_row + i, p.path, p.size, p.mtime_ns, p.content_hash, p.width, p.height)
                    for i, p in enumerate(pictures)
                ),
            )
            if pictures:
                self._db.execute(
                    "INSERT INTO extents VALUES (?, ?, ?, ?)", (first_row, len(pictures), crc32c, now)
                )
            self._db.executemany(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?)",
                ((f.path, f.reason, f.detail, f.size, f.mtime_ns, now) for f in failed),
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            raise IndexWriteError(f"{self._path}: the commit was refused: {exc}") from exc
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._db.execute(sql, parameters).fetchall()
        except sqlite3.Error as exc:
            raise IndexDamaged(f"{self._path}: cannot be read: {exc}") from exc


def _connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """Autocommit; transactions are opened by hand, where the code says so."""
    uri = "file:" + quote(os.fsencode(path.absolute()))  # a path may hold ?, # and bytes that are not UTF-8
    if write:
        db = sqlite3.connect(uri + "?mode=rw", uri=True, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")  # a commit is on disk when it returns, not some time later
        return db
    db = sqlite3.connect(uri + "?mode=ro", uri=True, isolation_level=None, check_same_thread=False)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # A WAL database on a read-only medium cannot be locked; with no WAL beside it, nobody is writing.
        db.close()
        if path.with_name(path.name + "-wal").exists():
            raise
        db = sqlite3.connect(uri + "?immutable=1", uri=True, isolation_level=None, check_same_thread=False)
    return db
