"""rows.sqlite: what each row is a picture of, which files failed, and how many rows are committed.

One SQLite transaction is what makes rows count. In WAL mode readers neither wait for the writer nor see
anything that it has not committed.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clipdex.errors import IndexDamaged, IndexFormatError, IndexWriteError
from clipdex.index.records import NO_METADATA, BrokenRecord, Changes, Extent, Failure, KnownFile, Picture
from clipdex.index.schema import (
    APPLICATION_ID,
    DAMAGE,
    PHASHES,
    SCHEMA,
    SCHEMA_VERSION,
    Value,
    connect,
    is_sound,
    readable,
    record_crc32c,
)

__all__ = ["NO_METADATA", "ROWS_FILE", "Changes", "Extent", "Failure", "KnownFile", "Picture", "RowStore"]

ROWS_FILE = "rows.sqlite"

# A tombstone and a new time change what the record's checksum covers. A record that is damaged stays so.
_WHOLE = "crc32c IS record_crc32c(row, path, size, mtime_ns, content_hash, width, height, deleted_at)"
_BURY = (
    "UPDATE rows SET deleted_at = ?1, "  # noqa: S608
    f"crc32c = CASE WHEN {_WHOLE} "
    "THEN record_crc32c(row, path, size, mtime_ns, content_hash, width, height, ?1) ELSE crc32c END "
    "WHERE path = ?2 AND deleted_at IS NULL"
)
_TOUCH = (
    "UPDATE rows SET size = ?1, mtime_ns = ?2, "  # noqa: S608
    f"crc32c = CASE WHEN {_WHOLE} "
    "THEN record_crc32c(row, path, ?1, ?2, content_hash, width, height, deleted_at) ELSE crc32c END "
    "WHERE path = ?3 AND deleted_at IS NULL"
)

# What came with a picture may change while the picture does not.
_ANNOTATE = (
    "INSERT OR REPLACE INTO metadata (row, json, crc32c) "
    "SELECT row, ?2, record_crc32c(row, ?2) FROM rows WHERE path = ?1 AND deleted_at IS NULL"
)
_SIGN = (
    "INSERT OR REPLACE INTO phashes (row, phash, crc32c) "
    "SELECT row, ?2, record_crc32c(row, ?2) FROM rows WHERE path = ?1 AND deleted_at IS NULL"
)
_STRIP = "DELETE FROM metadata WHERE row IN (SELECT row FROM rows WHERE path = ? AND deleted_at IS NULL)"

# All that is stored of a row, with the checksums.
_STORED = (
    "rows.row, path, size, mtime_ns, content_hash, width, height, deleted_at, rows.crc32c, json, metadata.crc32c, "
    "{} FROM rows LEFT JOIN metadata USING (row)"
)
_UNSIGNED = ("NULL, NULL", "")
_SIGNED = ("phash, phashes.crc32c", " LEFT JOIN phashes USING (row)")

# A table's key, and the columns that its checksum covers.
_CHECKED = {
    "rows": ("row", "row, path, size, mtime_ns, content_hash, width, height, deleted_at"),
    "extents": ("first_row", "first_row, row_count, vectors_crc32c, committed_at"),
    "failures": ("path", "path, reason, detail, size, mtime_ns, failed_at"),
    "metadata": ("row", "row, json"),
    "phashes": ("row", "row, phash"),
}


class RowStore:
    """A connection to rows.sqlite. Reading is safe from many threads; writing is the writer's alone."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._lock = threading.Lock()
        self._signed = False  # whether the table `phashes` has been seen

    @classmethod
    def create(cls, path: Path) -> None:
        """Write an empty database at a path where nothing is. Raises sqlite3.Error if the disk refuses."""
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.executescript(SCHEMA + PHASHES)
        finally:
            db.close()

    @classmethod
    def open(cls, path: Path, *, write: bool) -> RowStore:
        """Open an existing database.

        Raises:
            IndexDamaged: the file is missing, or not a database.
            IndexWriteError: the disk refused a writer.
            IndexFormatError: a database, but not an index's, or of a newer version.
        """
        if not path.is_file():
            raise IndexDamaged(f"{path}: is missing; without it nothing says which rows are committed")
        try:
            db = connect(path, write=write)
            (application,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError as exc:
            # Not what the file holds, but what the system refused: space for SQLite's own files, a read, a sync.
            if write:
                raise IndexWriteError(f"{path}: cannot be opened for writing: {exc}") from exc
            raise IndexDamaged(
                f"{path}: cannot be opened: {exc}; SQLite reads it and makes a small file beside it, "
                "which a full disk or the folder's permissions may prevent"
            ) from exc
        except DAMAGE as exc:
            raise IndexDamaged(f"{path}: is not a sound SQLite database: {exc}") from exc
        if application != APPLICATION_ID:
            db.close()
            raise IndexFormatError(f"{path}: is a SQLite database, but not one of a clipdex index")
        if version != SCHEMA_VERSION:
            db.close()
            raise IndexFormatError(
                f"{path} has the format version {version}, this clipdex reads {SCHEMA_VERSION}: "
                "install the clipdex that wrote it, or build the index again"
            )
        store = cls(db, path)
        try:
            if write and not store._has("phashes"):
                with store._transaction():
                    db.execute(PHASHES)
        except BaseException:
            db.close()
            raise
        return store

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
            sql = f"SELECT {self._stored()} WHERE rows.row IN ({marks})"
            found |= {record[0]: _picture(record) for record in self._rows(sql, part)}
        return found

    def live_pictures(self, start: int, end: int) -> dict[int, Picture]:
        """The pictures of the live rows in [start, end), by row, in order."""
        live = "deleted_at IS NULL AND rows.row >= ? AND rows.row < ? ORDER BY rows.row"
        sql = f"SELECT {self._stored()} WHERE {live}"
        return {record[0]: _picture(record) for record in self._rows(sql, (start, end))}

    def contents(self, start: int, end: int) -> list[tuple[int, bytes, int, int]]:
        """(row, content hash, width, height) of every live row in [start, end), by row."""
        sql = (
            "SELECT row, content_hash, width, height FROM rows "
            "WHERE deleted_at IS NULL AND row >= ? AND row < ? ORDER BY row"
        )
        return self._rows(sql, (start, end))

    def signatures(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """(row, perceptual signature) of the live rows in [start, end) that have a sound one, by row."""
        if not self._has("phashes"):
            return []
        sql = (
            "SELECT row, phash, phashes.crc32c FROM phashes JOIN rows USING (row) WHERE deleted_at IS NULL "
            "AND row >= ? AND row < ? ORDER BY row"
        )
        found = self._rows(sql, (start, end))
        return [(row, phash) for row, phash, crc32c in found if is_sound(crc32c, row, phash)]

    def live_paths(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """(row, path) of every live row in [start, end), by row."""
        sql = "SELECT row, path FROM rows WHERE deleted_at IS NULL AND row >= ? AND row < ? ORDER BY row"
        return self._rows(sql, (start, end))

    def known(self, path: bytes) -> KnownFile | None:
        """What the index knows of a path, if anything."""
        found = self._rows(
            "SELECT size, mtime_ns, row, content_hash FROM rows WHERE path = ? AND deleted_at IS NULL "
            "UNION ALL SELECT size, mtime_ns, NULL, NULL FROM failures WHERE path = ?",
            (path, path),
        )
        return KnownFile(*found[0]) if found else None

    def known_soundly(self, path: bytes) -> KnownFile | None:
        """The same, of records that are all as they were written; None where one is not."""
        # The record is looked up by its row: an index of the database might answer for a damaged one.
        live = "rows.row = (SELECT row FROM rows WHERE path = ? AND deleted_at IS NULL)"
        if found := self._rows(f"SELECT {self._stored()} WHERE {live}", (path,)):
            row, _, size, mtime_ns, content_hash, *_ = found[0]
            sound = found[0][1] == path and _all_sound(found[0])
            return KnownFile(size, mtime_ns, row, content_hash) if sound else None
        columns = _CHECKED["failures"][1]
        sql = f"SELECT crc32c, {columns} FROM failures WHERE path = ?"  # noqa: S608
        found = [record for record in self._rows(sql, (path,)) if is_sound(*record)]
        return KnownFile(found[0][4], found[0][5], None, None, reason=found[0][2]) if found else None

    def metadata(self, row: int) -> str:
        """The JSON of what came with a row's picture; `{}` if nothing did."""
        found = self._rows("SELECT json FROM metadata WHERE row = ?", (row,))
        return str(found[0][0]) if found else NO_METADATA

    def rows_of_content(self, content_hash: bytes) -> Iterator[int]:
        """The rows, live or dead, whose file had this content, and whose record is sound."""
        columns, row = _CHECKED["rows"][1], -1
        sql = (  # one by one: the first will do, and of an empty picture there may be thousands
            f"SELECT row, crc32c, {columns} FROM rows "  # noqa: S608
            "WHERE content_hash = ? AND row > ? ORDER BY row LIMIT 1"
        )
        while found := self._rows(sql, (content_hash, row)):
            row = found[0][0]
            if is_sound(*found[0][1:]):
                yield row

    def failures(self, *, damaged: bool = True) -> list[Failure]:
        """The ledger, by path; without the lines that are `damaged`, if so asked."""
        columns = _CHECKED["failures"][1]
        found = self._rows(f"SELECT crc32c, {columns} FROM failures ORDER BY path")  # noqa: S608
        return [Failure(*record[1:6]) for record in found if damaged or is_sound(*record)]

    def failure_counts(self) -> dict[str, int]:
        """How many lines of the ledger have each reason, the most frequent first."""
        return dict(self._rows("SELECT reason, count(*) FROM failures GROUP BY reason ORDER BY 2 DESC, 1"))

    def commit_times(self) -> tuple[int | None, int | None]:
        """When rows were first and last committed: seconds since 1970, or None."""
        first, last = self._rows("SELECT min(committed_at), max(committed_at) FROM extents")[0]
        return first, last

    def extents(self) -> list[Extent]:
        """The commit record, in order."""
        sql = "SELECT first_row, row_count, vectors_crc32c FROM extents ORDER BY first_row"
        found = self._rows(sql)
        if not all(isinstance(value, int) for row in found for value in row):
            raise IndexDamaged(f"{self._path}: its commit record is damaged; build the index again")
        return [Extent(*row) for row in found]

    # Checking

    def broken_pages(self) -> list[str]:
        """What SQLite's own check finds wrong with the file, in its words."""
        found = [text for (text,) in self._rows("PRAGMA integrity_check")]
        return [] if found == ["ok"] else [f"{self._path.name}: {text}" for text in found]

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """What is read inside the block is of one commit, whatever is committed meanwhile."""
        self._rows("BEGIN")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def broken_records(self) -> list[BrokenRecord]:
        """The records whose checksum does not fit."""
        found = []
        for table, (key, columns) in _CHECKED.items():  # names of our own, no user's
            if table == "phashes" and not self._has(table):
                continue  # an index of the first versions
            sql = f"SELECT {key}, crc32c, {columns} FROM {table}"  # noqa: S608
            for value, *record in self._each(sql):
                if not is_sound(*record):
                    row = value if key == "row" and isinstance(value, int) else None
                    what = f"{self._path.name}: the record {value!r} of {table} is damaged"
                    found.append(BrokenRecord(what, row))
        return found

    def record_count(self) -> int:
        """How many records of pictures there are, dead ones too."""
        return int(self._rows("SELECT count(*) FROM rows")[0][0])

    # Writing

    def commit(self, first_row: int, vectors_crc32c: int, changes: Changes, at: int | None = None) -> None:
        """Make changes count, in one transaction that is on disk when this returns.

        A picture takes the place of the live row and of the ledger's line of its path; so does a failure.

        Args:
            at: when they are said to have been committed, seconds since 1970; now if not given.

        Raises:
            IndexWriteError: the disk refused. This connection sees nothing of the commit; the next one may,
                if nothing but its last sync failed.
        """
        now = int(time.time()) if at is None else at
        pictures, failures = changes.pictures, changes.failures
        signed = [(p.path, p.phash) for p in changes.touched if p.phash is not None] + changes.signed
        told = [(p.path, p.metadata) for p in changes.touched if p.metadata is not None] + changes.annotated
        gone = [*(p.path for p in pictures), *(f.path for f in failures), *changes.removed]
        with self._lock, self._transaction():
            self._db.executemany(_BURY, ((now, path) for path in gone))
            self._db.executemany("DELETE FROM failures WHERE path = ?", ((path,) for path in gone))
            self._db.executemany(_TOUCH, ((p.size, p.mtime_ns, p.path) for p in changes.touched))
            self._db.executemany(_STRIP, ((path,) for path, _ in told))
            self._db.executemany(_SIGN, signed)
            self._db.executemany(_ANNOTATE, ((path, json) for path, json in told if json != NO_METADATA))
            self._insert("rows", (_row(first_row + i, picture) for i, picture in enumerate(pictures)))
            of_rows = ((first_row + i, picture.metadata) for i, picture in enumerate(pictures))
            self._insert("metadata", ((row, json) for row, json in of_rows if json not in (None, NO_METADATA)))
            looks = ((first_row + i, picture.phash) for i, picture in enumerate(pictures))
            self._insert("phashes", ((row, phash) for row, phash in looks if phash is not None))
            if pictures:
                self._insert("extents", [(first_row, len(pictures), vectors_crc32c, now)])
            lines = ((f.path, f.reason, f.detail, f.size, f.mtime_ns, now) for f in failures)
            self._insert("failures", lines)

    def _insert(self, table: str, records: Iterable[tuple[Value, ...]]) -> None:
        columns = _CHECKED[table][1]
        marks = "?, " * len(columns.split(",")) + "?"
        self._db.executemany(
            f"INSERT INTO {table} ({columns}, crc32c) VALUES ({marks})",  # noqa: S608
            ((*record, record_crc32c(*record)) for record in records),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            raise IndexWriteError(
                f"{self._path}: the commit was refused: {exc}; "
                "what was committed before is untouched, and the next run goes on from there"
            ) from exc
        finally:
            if self._db.in_transaction:
                with suppress(sqlite3.Error):  # the next to open it rolls back
                    self._db.execute("ROLLBACK")

    def _has(self, table: str) -> bool:
        return bool(self._rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)))

    def _stored(self) -> str:
        """What to select of a row, and from where."""
        self._signed = self._signed or self._has("phashes")  # a writer may add the table, and none drops it
        columns, table = _SIGNED if self._signed else _UNSIGNED
        return _STORED.format(columns) + table

    def _each(self, sql: str) -> Iterator[Any]:
        """The same, one by one, with texts that may be damaged."""
        try:
            with self._lock:
                before, self._db.text_factory = self._db.text_factory, readable
                try:
                    yield from self._db.execute(sql)
                finally:
                    self._db.text_factory = before
        except DAMAGE as exc:
            raise IndexDamaged(f"{self._path}: cannot be read: {exc}") from exc

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._db.execute(sql, parameters).fetchall()
        except DAMAGE as exc:
            raise IndexDamaged(f"{self._path}: cannot be read: {exc}") from exc


def _picture(record: Sequence[Any]) -> Picture:
    """Of what `_stored` selects. A signature that is damaged is none."""
    row, path, size, mtime_ns, content_hash, width, height, _, _, json, _, phash, signed = record
    phash = phash if phash is not None and is_sound(signed, row, phash) else None
    return Picture(path, size, mtime_ns, content_hash, width, height, json, phash)


def _all_sound(record: Sequence[Any]) -> bool:
    """Whether all that `_stored` selects is as it was written."""
    row, of_row, crc32c, json, told, phash, signed = record[0], record[:8], *record[8:]
    beside = [(crc, value) for crc, value in ((told, json), (signed, phash)) if (crc, value) != (None, None)]
    return is_sound(crc32c, *of_row) and all(is_sound(crc, row, value) for crc, value in beside)


def _row(row: int, picture: Picture) -> tuple[Value, ...]:
    p = picture
    return (row, p.path, p.size, p.mtime_ns, p.content_hash, p.width, p.height, None)
