"""rows.sqlite: the picture of each row, the ledger of failed files, and the number of committed rows.

One SQLite transaction commits rows. In WAL mode readers neither wait for the writer nor see
anything that it has not committed.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar, cast

from clipdex.base.errors import IndexDamaged, IndexFault, IndexFormatError, IndexWriteError
from clipdex.base.exif import Exif
from clipdex.base.records import (
    NO_METADATA,
    Changes,
    Extent,
    Failure,
    KnownFile,
    Picture,
    storable,
)
from clipdex.index.checksum import Value, record_crc32c, record_crc32cs
from clipdex.index.file_system import lacking
from clipdex.index.manifest import MANIFEST
from clipdex.index.row_reader import CHECKED, DATED_PATHS, LEDGER_PATHS, LIVE_PATHS, RowReader
from clipdex.index.schema import (
    APPLICATION_ID,
    DAMAGE,
    EXIF,
    EXIF_VERSION,
    LATER,
    SCHEMA,
    SCHEMA_VERSION,
    blobs,
    connect,
    connect_new,
    require_schema,
    still,
    was_refused,
)
from clipdex.index.stored import (
    KINDS,
    exif_record,
    is_whole,
)

__all__ = ["NO_METADATA", "ROWS_FILE", "Changes", "Extent", "Failure", "KnownFile", "Picture", "RowStore"]

ROWS_FILE = "rows.sqlite"

# A picture's metadata may change while the picture does not.
_ANNOTATE = (
    "INSERT OR REPLACE INTO metadata (row, json, crc32c) "
    "SELECT row, :value, record_crc32c(row, :value) FROM rows WHERE path = :path AND deleted_at IS NULL"
)
_SIGN = (
    "INSERT OR REPLACE INTO phashes (row, phash, crc32c) "
    "SELECT row, :value, record_crc32c(row, :value) FROM rows WHERE path = :path AND deleted_at IS NULL"
)
_DATE = (
    "INSERT OR REPLACE INTO ctimes (row, ctime_ns, crc32c) "
    "SELECT row, :value, record_crc32c(row, :value) FROM rows WHERE path = :path AND deleted_at IS NULL"
)
_DATE_FAILURE = (
    "INSERT OR REPLACE INTO failure_ctimes (path, ctime_ns, crc32c) "
    "SELECT path, :value, record_crc32c(path, :value) FROM failures WHERE path = :path"
)
_LIVE_ROW = "SELECT row FROM rows WHERE path = ? AND deleted_at IS NULL"
_STRIP = "DELETE FROM metadata WHERE row IN (SELECT row FROM rows WHERE path = ? AND deleted_at IS NULL)"


_MOST_PARAMETERS = 900  # SQLite takes 999 on old builds
_PICTURES_AT_ONCE = 900  # a multiple of what a statement takes of each of their tables

_T = TypeVar("_T")

_ROW = CHECKED["rows"][1].split(", ")
_LIVE = f"SELECT {', '.join(_ROW)}, crc32c FROM rows WHERE path = ? AND deleted_at IS NULL"  # noqa: S608


class RowStore(RowReader):
    """A connection to rows.sqlite. Reading is safe from many threads; writing is the writer's alone."""

    @classmethod
    def create(cls, path: Path) -> None:
        """Create an empty database at a path that does not exist. Raises sqlite3.Error if the disk refuses."""
        db = connect_new(path)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.executescript(SCHEMA + "".join(LATER.values()))
        finally:
            db.close()

    @classmethod
    def open(cls, path: Path, *, write: bool) -> RowStore:
        """Open an existing database.

        Raises:
            IndexDamaged: the file is missing, is not a database, or has other tables than an index.
            IndexWriteError: it cannot be opened for writing.
            IndexFormatError: it is a database, but not an index's, or of a newer version.
        """
        if not os.path.lexists(path):
            raise IndexDamaged(f"{path}: is missing; without it the committed rows are not known")
        try:
            db = connect(path, write=write)
            (application,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError as exc:
            # Not damage: the system refused something, such as space for SQLite's own files, a read or a sync.
            lack = lacking(path.with_name(MANIFEST))
            if write:
                why = f": {lack}" if lack else ""
                raise IndexWriteError(f"{path}: cannot be opened for writing: {exc}{why}") from exc
            if lack is not None:
                raise IndexFault(
                    f"{path}: cannot be opened: {exc}: a commit is still in rows.sqlite-wal, and {lack}"
                ) from exc
            if still(path) is None and was_refused(exc):
                raise IndexFault(
                    f"{path}: cannot be opened: {exc}; SQLite makes a small file beside it, which a full disk or "
                    "the folder's permissions prevent; this does not mean that the index is damaged"
                ) from exc
            raise IndexDamaged(f"{path}: cannot be opened: {exc}") from exc
        except DAMAGE as exc:
            raise IndexDamaged(f"{path}: is not a sound SQLite database: {exc}") from exc
        if application != APPLICATION_ID:
            db.close()
            raise IndexFormatError(f"{path}: is a SQLite database, but not that of a clipdex index")
        if version not in (SCHEMA_VERSION, EXIF_VERSION):
            db.close()
            raise IndexFormatError(
                f"{path} has the format version {version}, this clipdex reads {SCHEMA_VERSION} and "
                f"{EXIF_VERSION}: install the clipdex that wrote it, or build the index again"
            )
        store = cls(db, path)
        store._absent = set() if write else None
        try:
            require_schema(db, path)
            if write and not all(map(store._has, LATER)):
                with store._transaction():
                    for statement in LATER.values():
                        db.execute(statement)
                store._absent = set()
        except BaseException:
            db.close()
            raise
        return store

    def commit(self, first_row: int, vectors_crc32c: int, changes: Changes, at: int | None = None) -> None:
        """Commit changes in one transaction that is on disk when this returns.

        A picture replaces the live row and the ledger's line of its path; so does a failure.

        Args:
            at: the time of commit to record, seconds since 1970 (default: now).

        Raises:
            IndexDamaged: a record that it would change is damaged too badly; nothing was written.
            IndexWriteError: the disk is full or failed. This connection does not see the commit; the next one
                may, if only its last sync failed.
        """
        now = int(time.time()) if at is None else at
        pictures, failures = changes.pictures, changes.failures
        signed = [(p.path, p.phash) for p in changes.touched if p.phash is not None] + changes.signed
        told = [(p.path, p.metadata) for p in changes.touched if p.metadata is not None] + changes.annotated
        dated = [(p.path, p.ctime_ns) for p in changes.touched] + changes.dated
        lines = [_line(failure, now) for failure in failures]
        told_by_files = [(p.path, p.exif) for p in changes.touched if p.exif is not None]
        shown = [(first_row + i, picture.exif) for i, picture in enumerate(pictures) if picture.exif]
        gone = [*(p.path for p in pictures), *(f.path for f in failures), *changes.removed]
        there = self._has("exif")
        with self._lock, self._transaction():
            live = self._locked_among(LIVE_PATHS, gone)
            failed = self._locked_among(LEDGER_PATHS, gone) | self._locked_among(DATED_PATHS, gone)
            for path in filter(live.__contains__, gone):
                self._change(path, deleted_at=now)
            lines_gone = [(path,) for path in gone if path in failed]
            self._db.executemany("DELETE FROM failures WHERE path = ?", lines_gone)
            self._db.executemany("DELETE FROM failure_ctimes WHERE path = ?", lines_gone)
            for p in changes.touched:
                self._change(p.path, size=storable(p.size), mtime_ns=storable(p.mtime_ns))
            for statement in (_DATE, _DATE_FAILURE):
                times = ((path, storable(ctime)) for path, ctime in dated if ctime is not None)
                self._db.executemany(statement, _named(times))
            self._db.executemany(_STRIP, ((path,) for path, _ in told))
            self._db.executemany(_SIGN, _named(signed))
            said = ((path, json) for path, json in told if json != NO_METADATA)
            self._db.executemany(_ANNOTATE, _named(said))
            self._insert_pictures(first_row, pictures)
            self._say_of_files(told_by_files, shown, there=there)
            if pictures:
                self._insert("extents", [(first_row, len(pictures), vectors_crc32c, now)])
            self._insert("failures", lines)
            named = ((f.path, f.ctime_ns) for f in failures)
            self._insert("failure_ctimes", [(path, storable(ctime)) for path, ctime in named if ctime is not None])

    def _insert_pictures(self, first_row: int, pictures: Sequence[Picture]) -> None:
        for start in range(0, len(pictures), _PICTURES_AT_ONCE):
            some = pictures[start : start + _PICTURES_AT_ONCE]
            rows = range(first_row + start, first_row + start + len(some))
            columns = (
                *(rows, [p.path for p in some], _storable([p.size for p in some])),
                *(_storable([p.mtime_ns for p in some]), [p.content_hash for p in some]),
                *([p.width for p in some], [p.height for p in some], [None] * len(some)),
            )
            self._insert_columns("rows", columns)
            self._insert_columns("phashes", _those_with(rows, [p.phash for p in some]))
            there, ctimes = _those_with(rows, [p.ctime_ns for p in some])
            self._insert_columns("ctimes", (there, _storable(ctimes)))
            said = [None if p.metadata == NO_METADATA else p.metadata for p in some]
            self._insert_columns("metadata", _those_with(rows, said))

    def _say_of_files(
        self, of_paths: list[tuple[bytes, Exif]], of_rows: list[tuple[int, Exif]], *, there: bool
    ) -> None:
        """Replace what the files of live rows say, and insert what those of new rows do. there: the table is."""
        if not there:
            if not of_rows and not any(exif for _, exif in of_paths):
                return
            self._db.execute(EXIF)
            self._db.execute(f"PRAGMA user_version = {EXIF_VERSION}")
            self._absent = set()
        records = []
        for path, exif in of_paths:
            for (row,) in self._db.execute(_LIVE_ROW, (path,)).fetchall():
                self._db.execute("DELETE FROM exif WHERE row = ?", (row,))
                records += [exif_record(row, exif)] if exif else []
        self._insert("exif", [*records, *(exif_record(row, exif) for row, exif in of_rows)])

    def _change(self, path: bytes, **new: int | bytes) -> None:
        """Change the live row of a path, if there is one, and its checksum with it. Damaged rows stay damaged."""
        for *values, crc32c in self._db.execute(_LIVE, (path,)).fetchall():
            changed = dict(zip(_ROW, values, strict=True)) | new
            sound = is_whole("rows", crc32c, *values)
            if not sound:  # SQLite accepts no record with a value of the wrong type
                for name, kinds in zip(_ROW, KINDS["rows"], strict=True):
                    if type(changed[name]) not in kinds:
                        new[name] = changed[name] = b"" if kinds == (bytes,) else 0
            fits = record_crc32c(*changed.values())
            if not sound:
                fits = crc32c if type(crc32c) is int and crc32c != fits else fits ^ 1
            columns = ", ".join(f"{name} = ?" for name in new)
            # A row's number is its key in SQLite's tree, so it is always a number, even in a damaged record.
            self._db.execute(
                f"UPDATE rows SET {columns}, crc32c = ? WHERE row = ?",  # noqa: S608
                (*new.values(), fits, values[0]),
            )

    def _insert(self, table: str, records: Sequence[Sequence[Value]]) -> None:
        self._insert_columns(table, list(zip(*records, strict=True)))

    def _insert_columns(self, table: str, columns: Sequence[Sequence[Value]]) -> None:
        """Insert records, given the values of all of them by column, with their checksums."""
        names = CHECKED[table][1]
        each = len(names.split(",")) + 1
        # OR ROLLBACK, as `_transaction` does: else SQLite keeps what a statement changes, to undo it alone.
        insert = f"INSERT OR ROLLBACK INTO {table} ({names}, crc32c) VALUES "  # noqa: S608
        at_once = _MOST_PARAMETERS // each
        for start in range(0, len(columns[0]) if columns else 0, at_once):
            some = [column[start : start + at_once] for column in columns]
            complete = (*some, record_crc32cs(some))
            if len(some[0]) < at_once:
                self._db.executemany(f"{insert}({'?, ' * (each - 1)}?)", zip(*complete, strict=True))
                return
            given = [column for column in complete if not _is_nulls(column)]
            values: list[Value | bytearray] = [None] * (len(given) * at_once)
            for at, column in enumerate(given):
                values[at :: len(given)] = (
                    blobs(cast("Sequence[bytes]", column)) if set(map(type, column)) == {bytes} else column
                )
            marks = ", ".join("NULL" if _is_nulls(column) else "?" for column in complete)
            # Many in a statement: before and after each, sqlite3 waits for its turn among Python's threads.
            self._db.execute(insert + ", ".join([f"({marks})"] * at_once), values)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except DAMAGE as exc:
            # SQLite raises other classes if the system refuses something.
            if type(exc) in (sqlite3.DatabaseError, sqlite3.IntegrityError, UnicodeDecodeError):
                raise IndexDamaged(
                    f"{self._path}: the commit met damage: {exc}; nothing was written:  clipdex verify  says "
                    "what is damaged, and  clipdex compact --drop-damaged  rebuilds the index without it"
                ) from exc
            raise IndexWriteError(
                f"{self._path}: the commit was refused: {exc}; "
                "what was committed before is untouched, and the next run continues from there"
            ) from exc
        finally:
            if self._db.in_transaction:
                with suppress(sqlite3.Error):  # the next to open it rolls back
                    self._db.execute("ROLLBACK")


def _storable(numbers: Sequence[int]) -> Sequence[int]:
    """Clamp many numbers like `storable`; seldom is there any to clamp."""
    if not numbers or (storable(min(numbers)), storable(max(numbers))) == (min(numbers), max(numbers)):
        return numbers
    return list(map(storable, numbers))


def _is_nulls(column: Sequence[Value]) -> bool:
    """Return whether all values are NULL, as `deleted_at` of new rows."""
    return column[0] is None and column.count(None) == len(column)


def _those_with(rows: range, values: Sequence[_T | None]) -> tuple[Sequence[int], Sequence[_T]]:
    """Return the rows with a value, and their values."""
    if None not in values:
        return rows, cast("Sequence[_T]", values)
    there = [(row, value) for row, value in zip(rows, values, strict=True) if value is not None]
    return [row for row, _ in there], [value for _, value in there]


def _line(failure: Failure, now: int) -> tuple[Value, ...]:
    f = failure
    # The message of a server or a library, or a file name in it, may contain bytes that are not UTF-8.
    detail = f.detail.encode("utf-8", "backslashreplace").decode()
    return (f.path, f.reason, detail, storable(f.size), storable(f.mtime_ns), now)


def _named(pairs: Iterable[tuple[bytes, object]]) -> Iterator[dict[str, object]]:
    """Give the values of statements that use one twice, which Python 3.14 takes by name only."""
    return ({"path": path, "value": value} for path, value in pairs)
