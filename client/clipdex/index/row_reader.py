"""Reading rows.sqlite: what each row is a picture of, which files failed, and how many rows are committed."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from clipdex.base.errors import IndexDamaged, InvalidArgument
from clipdex.base.records import (
    NO_METADATA,
    BrokenRecord,
    Extent,
    Failure,
    KnownFile,
    Picture,
)
from clipdex.base.spelling import composed_path
from clipdex.index.schema import (
    DAMAGE,
    OPTIONAL,
    blobs,
    fetched,
    readable,
    require_still,
    unreadable,
)
from clipdex.index.stored import (
    EXIF_COLUMNS,
    KINDS,
    LATER_OF_ROWS,
    are,
    failure_of,
    is_stored_count,
    is_whole,
    known_file,
    pictures_of,
    sound_among,
    stored,
    whole_among,
    wrong_kind,
)

__all__ = ["CHECKED", "DATED_PATHS", "LEDGER_PATHS", "LIVE_PATHS", "RowReader"]

# Of values that are looked up together.
_AT_ONCE = 256

_IN_A_BLOCK = 1_000  # records that are checked together

LIVE_PATHS = "SELECT path FROM rows WHERE deleted_at IS NULL AND path"
LEDGER_PATHS = "SELECT path FROM failures WHERE path"
DATED_PATHS = "SELECT path FROM failure_ctimes WHERE path"

_INT, _INT_OR_NONE, _BYTES_OR_NONE = (int,), (int, type(None)), (bytes, type(None))

# A table's key, and the columns that its checksum covers.
CHECKED = {
    "rows": ("row", "row, path, size, mtime_ns, content_hash, width, height, deleted_at"),
    "extents": ("first_row", "first_row, row_count, vectors_crc32c, committed_at"),
    "failures": ("path", "path, reason, detail, size, mtime_ns, failed_at"),
    "metadata": ("row", "row, json"),
    "phashes": ("row", "row, phash"),
    "ctimes": ("row", "row, ctime_ns"),
    "failure_ctimes": ("path", "path, ctime_ns"),
    "exif": ("row", f"row, {', '.join(EXIF_COLUMNS)}"),
}


class RowReader:
    """A connection that reads rows.sqlite. Safe to use from many threads."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._lock = threading.Lock()
        self._there: set[str] = set()  # which of `OPTIONAL` have been seen
        self._absent: set[str] | None = None  # the only writer's: which are not there, as no other makes them

    def close(self) -> None:
        """Close the connection; closing the writer's merges the WAL into the file."""
        self._db.close()

    def committed_rows(self) -> int:
        """Count the committed rows at the start of the vectors file, tombstones included."""
        return self.snapshot()[0]

    def data_version(self) -> int:
        """A number of this connection that changes with every commit of another one."""
        return int(self._rows("PRAGMA data_version")[0][0])

    def snapshot(self) -> tuple[int, list[int]]:
        """Read the number of committed rows, and the dead ones among them, ascending, both as of one moment."""
        # One statement is one moment; two could have a commit between them.
        found = self._rows(
            "SELECT 0, first_row, row_count FROM (SELECT * FROM extents ORDER BY first_row DESC LIMIT 1) "
            "UNION ALL SELECT 1, row, 0 FROM rows WHERE deleted_at IS NOT NULL ORDER BY 1, 2"
        )
        last, dead = [extent for kind, *extent in found if kind == 0], [row for kind, row, _ in found if kind]
        sound = all(is_stored_count(value) for extent in last for value in extent)
        rows = sum(last[0]) if last and sound else 0
        if not sound or (dead and not 0 <= dead[0] <= dead[-1] < rows):
            raise IndexDamaged(f"{self._path}: its commit record is damaged; see  clipdex verify")
        return rows, dead

    def pictures(self, rows: Sequence[int]) -> dict[int, Picture]:
        """Read the pictures of the given rows, by row; those of dead rows, too."""
        found: dict[int, Picture] = {}
        for start in range(0, len(rows), 500):  # SQLite takes 999 parameters on old builds
            part = [int(row) for row in rows[start : start + 500]]
            marks = ",".join("?" * len(part))
            sql = f"SELECT {self._stored()} WHERE rows.row IN ({marks})"
            records = self._rows(sql, part)
            if (wrong := wrong_kind(records)) is not None:
                raise IndexDamaged(f"{self._path}: the record of row {wrong[0]} is damaged; see  clipdex verify")
            found |= _by_row(records)
        return found

    def live_pictures(self, start: int, end: int) -> dict[int, Picture]:
        """Read the pictures of the live rows in [start, end), by row, in order."""
        live = "deleted_at IS NULL AND rows.row >= ? AND rows.row < ? ORDER BY rows.row"
        sql = f"SELECT {self._stored()} WHERE {live}"
        return _by_row(self._rows(sql, (start, end)))

    def contents(self, start: int, end: int) -> list[tuple[int, bytes, int, int]]:
        """List (row, content hash, width, height) of every live row in [start, end), by row."""
        sql = (
            "SELECT row, content_hash, width, height FROM rows "
            "WHERE deleted_at IS NULL AND row >= ? AND row < ? ORDER BY row"
        )
        return self._of_kinds(self._rows(sql, (start, end)), int, bytes, int, int)

    def signatures(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """List (row, perceptual signature) of the live rows in [start, end) with an undamaged one, by row."""
        if not self._has("phashes"):
            return []
        sql = (
            "SELECT row, phash, phashes.crc32c FROM phashes JOIN rows USING (row) WHERE deleted_at IS NULL "
            "AND row >= ? AND row < ? ORDER BY row"
        )
        found = self._rows(sql, (start, end))
        return [(row, phash) for row, phash, crc32c in found if is_whole("phashes", crc32c, row, phash)]

    def live_paths(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """List (row, path) of every live row in [start, end), by row."""
        sql = "SELECT row, path FROM rows WHERE deleted_at IS NULL AND row >= ? AND row < ? ORDER BY row"
        return self._of_kinds(self._rows(sql, (start, end)), int, bytes)

    def known(self, path: bytes) -> KnownFile | None:
        """Look up a path: its live row or its line in the ledger, or None."""
        found = self._rows(
            "SELECT size, mtime_ns, row, content_hash FROM rows WHERE path = ? AND deleted_at IS NULL "
            "UNION ALL SELECT size, mtime_ns, NULL, NULL FROM failures WHERE path = ?",
            (path, path),
        )
        if found and not are(found[0], (_INT, _INT, _INT_OR_NONE, _BYTES_OR_NONE)):
            raise IndexDamaged(
                f"{self._path}: what is known of {os.fsdecode(path)!r} is damaged; see  clipdex verify"
            )
        return KnownFile(*found[0]) if found else None

    def known_by_look(self, path: bytes, rows: int) -> KnownFile | None:
        """Find the picture whose path looks the same, but writes accented letters as one character, or as two."""
        if path.isascii():
            return None
        wanted = composed_path(path)
        found = [other for _, other in self.live_paths(0, rows) if composed_path(other) == wanted]
        if len(found) > 1:
            raise InvalidArgument(
                f"{os.fsdecode(path)} is the name of {len(found)} pictures that differ in how their accents are "
                "written; give the row of one"
            )
        return self.known(found[0]) if found else None

    def has_path(self, path: bytes) -> bool:
        """Return whether a path has a live row or a line in the ledger, damaged or not."""
        sql = (
            "SELECT 1 FROM rows WHERE path = ? AND deleted_at IS NULL "
            "UNION ALL SELECT 1 FROM failures WHERE path = ?"
        )
        return bool(self._rows(sql, (path, path)))

    def contents_among(self, content_hashes: Sequence[bytes]) -> set[bytes]:
        """Find the contents that some row has, live or dead, damaged or not; one look-up for many."""
        return self._among("SELECT content_hash FROM rows WHERE content_hash", content_hashes)

    def _among(self, wanted: str, values: Sequence[bytes]) -> set[bytes]:
        try:
            with self._lock:
                found = self._locked_among(wanted, values)
                require_still(self._db)
                return found
        except DAMAGE as exc:
            require_still(self._db)
            raise unreadable(self._path, exc) from exc

    def _locked_among(self, wanted: str, values: Sequence[bytes]) -> set[bytes]:
        """Find values in a column. wanted: a statement up to it. For a caller that holds the lock.

        Raises:
            One of `DAMAGE`.
        """
        found: set[bytes] = set()
        if (
            wanted in (LEDGER_PATHS, DATED_PATHS)
            and self._db.execute(f"{wanted} IS NOT NULL LIMIT 1").fetchone() is None
        ):
            return found  # as in most indexes
        for start in range(0, len(values), _AT_ONCE):
            part = _filled(values[start : start + _AT_ONCE])
            marks = "?," * (len(part) - 1) + "?"
            found.update(value for (value,) in self._db.execute(f"{wanted} IN ({marks})", part))
        return found

    def known_soundly(self, path: bytes) -> KnownFile | None:
        """Look up a path like `known`, but return None if one of its records is damaged."""
        return self.known_soundly_among([path]).get(path)

    def known_soundly_among(self, paths: Sequence[bytes]) -> dict[bytes, KnownFile]:
        """Look up many paths; those of damaged records are not among the found, like unknown ones."""
        known: dict[bytes, KnownFile] = {}
        for start in range(0, len(paths), _AT_ONCE):
            asked = paths[start : start + _AT_ONCE]
            part = _filled(asked)
            marks = "?," * (len(part) - 1) + "?"
            # The record is looked up by its row: an index of the database might answer for a damaged one.
            named = f"(SELECT row AS at, path AS named FROM rows WHERE path IN ({marks}) AND deleted_at IS NULL)"  # noqa: S608
            there = self._stored(f"{named} CROSS JOIN rows ON rows.row = at")
            found = [(path, record) for path, *record in self._rows(f"SELECT named, {there}", part)]
            live = {path for path, _ in found}
            for (path, record), sound in zip(found, sound_among([each for _, each in found]), strict=True):
                if sound and record[1] == path:
                    known[path] = known_file(record)
            rest = [path for path in asked if path not in live]
            if rest and self._rows("SELECT 1 FROM failures LIMIT 1"):
                part = _filled(rest)
                marks = "?," * (len(part) - 1) + "?"
                for line in self._ledger(f"WHERE path IN ({marks})", part, damaged=False):
                    known[line.path] = KnownFile(
                        line.size, line.mtime_ns, None, None, line.ctime_ns, reason=line.reason
                    )
        return known

    def metadata(self, row: int) -> str:
        """Read the metadata of a row's picture as JSON; `{}` if it has none."""
        found = self._rows("SELECT json FROM metadata WHERE row = ?", (row,))
        return str(found[0][0]) if found else NO_METADATA

    def rows_of_content(self, content_hash: bytes) -> Iterator[int]:
        """Iterate over the rows, live or dead, whose file had this content and whose record is undamaged."""
        columns, row = CHECKED["rows"][1], -1
        sql = (  # one by one: usually the first is enough, and a blank picture may have thousands
            f"SELECT row, crc32c, {columns} FROM rows "  # noqa: S608
            "WHERE content_hash = ? AND row > ? ORDER BY row LIMIT 1"
        )
        while found := self._rows(sql, (content_hash, row)):
            row = found[0][0]
            if is_whole("rows", *found[0][1:]):
                yield row

    def live_paths_of_content(self, content_hash: bytes, most: int) -> list[bytes]:
        """List the paths of the live rows whose file had this content, by row, at most `most`."""
        sql = "SELECT path FROM rows WHERE content_hash = ? AND deleted_at IS NULL ORDER BY row LIMIT ?"
        return [path for (path,) in self._rows(sql, (content_hash, most)) if type(path) is bytes]

    def failures(self, *, damaged: bool = True) -> list[Failure]:
        """Read the ledger, by path. damaged=False: leave out damaged lines.

        Raises:
            IndexDamaged: a line has a value of the wrong type, and damaged lines are not left out.
        """
        return self._ledger("ORDER BY path", (), damaged=damaged)

    def failures_page(self, limit: int, offset: int) -> list[Failure]:
        """Read `limit` lines of the ledger after the first `offset`, by path; raises as `failures`."""
        return self._ledger("ORDER BY path LIMIT ? OFFSET ?", (limit, offset), damaged=True)

    def failed_paths(self) -> list[bytes]:
        """List the paths in the ledger, in order, including those of damaged lines that still have a path."""
        return [path for (path,) in self._rows("SELECT path FROM failures ORDER BY path") if type(path) is bytes]

    def failure_counts(self) -> dict[str, int]:
        """Count the lines of the ledger by reason, the most frequent first."""
        found = self._rows("SELECT reason, count(*) FROM failures GROUP BY reason ORDER BY 2 DESC, 1")
        if not all(type(reason) is str for reason, _ in found):
            raise self._damaged_ledger()
        return dict(found)

    def exif_count(self) -> int:
        """Count the live rows whose file says something of itself."""
        if not self._has("exif"):
            return 0
        sql = "SELECT count(*) FROM exif JOIN rows USING (row) WHERE deleted_at IS NULL"
        return int(self._rows(sql)[0][0])

    def commit_times(self) -> tuple[int | None, int | None]:
        """Read when rows were first and last committed: seconds since 1970, or None."""
        (found,) = self._rows("SELECT min(committed_at), max(committed_at) FROM extents")
        if not are(found, (_INT_OR_NONE, _INT_OR_NONE)):
            raise IndexDamaged(f"{self._path}: its commit record is damaged; see  clipdex verify")
        first, last = found
        return first, last

    def extents(self) -> list[Extent]:
        """Read the commit record, in order."""
        sql = "SELECT first_row, row_count, vectors_crc32c FROM extents ORDER BY first_row"
        found = self._rows(sql)
        if not all(is_stored_count(value) for row in found for value in row):
            raise IndexDamaged(f"{self._path}: its commit record is damaged; build the index again")
        return [Extent(*row) for row in found]

    # Checking

    def broken_pages(self) -> list[str]:
        """Run SQLite's own integrity check -> its findings, in its words."""
        found = [text for (text,) in self._rows("PRAGMA integrity_check")]
        return [] if found == ["ok"] else [f"{self._path.name}: {text}" for text in found]

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """Make all reads inside the block see the same commit, whatever is committed meanwhile."""
        self._rows("BEGIN")
        try:
            yield
        finally:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def broken_records(self) -> list[BrokenRecord]:
        """Find the records whose checksum does not match."""
        found = []
        for table, (key, columns) in CHECKED.items():  # names of our own, no user's
            if table in OPTIONAL and not self._has(table):
                continue  # an index of the first versions, or without such records
            sql = f"SELECT {key}, crc32c, {columns} FROM {table}"  # noqa: S608
            for records in self._blocks(sql):
                whole = whole_among(table, [record[1:] for record in records])
                for value in (value for (value, *_), sound in zip(records, whole, strict=True) if not sound):
                    row = value if key == "row" and isinstance(value, int) else None
                    what = f"{self._path.name}: the record {value!r} of {table} is damaged"
                    found.append(BrokenRecord(what, row))
        return found

    def record_count(self) -> int:
        """Count the records of pictures, dead ones too."""
        return int(self._rows("SELECT count(*) FROM rows")[0][0])

    def _of_kinds(self, found: list[Any], *kinds: type) -> list[Any]:
        """Check the types of records, the row first, and return them. Raises IndexDamaged for a wrong type."""
        columns = zip(*found, strict=True) if found else [()] * len(kinds)
        if not all({kind}.issuperset(map(type, column)) for kind, column in zip(kinds, columns, strict=True)):
            wrong = next(record for record in found if tuple(map(type, record)) != kinds)
            raise IndexDamaged(f"{self._path}: the record of row {wrong[0]} is damaged; see  clipdex verify")
        return found

    def _has(self, table: str) -> bool:
        if table in self._there:  # a writer may add a table, but never drops one
            return True
        with self._lock:
            if self._absent is not None and table in self._absent:
                return False
            found = self._locked_rows("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,))
            if found:
                self._there.add(table)
            elif self._absent is not None:
                self._absent.add(table)
        return bool(found)

    def _stored(self, rows: str = "rows") -> str:
        """The SELECT list and FROM clause for all that is stored of a row. rows: as for `stored`."""
        for table in (*LATER_OF_ROWS, "exif"):
            self._has(table)
        return stored(self._there, rows)

    def _ledger(self, condition: str, parameters: Sequence[Any], *, damaged: bool) -> list[Failure]:
        columns, there = CHECKED["failures"][1], self._has("failure_ctimes")
        times = "LEFT JOIN (SELECT path AS of, ctime_ns, crc32c AS crc FROM failure_ctimes) ON of = path"
        sql = (
            f"SELECT {'ctime_ns, crc' if there else 'NULL, NULL'}, crc32c, {columns} "  # noqa: S608
            f"FROM failures {times if there else ''} {condition}"
        )
        found = self._rows(sql, parameters)
        if not damaged:
            found = [record for record in found if is_whole("failures", *record[2:])]
        if not all(are(record[3:], KINDS["failures"]) for record in found):
            raise self._damaged_ledger()
        return [failure_of(*record[3:8], *record[:2]) for record in found]

    def _damaged_ledger(self) -> IndexDamaged:
        return IndexDamaged(f"{self._path}: its ledger of failures is damaged; see  clipdex verify")

    def _blocks(self, sql: str) -> Iterator[list[Any]]:
        """Iterate over a statement's records, some at a time, with texts that may be damaged."""
        try:
            with self._lock:
                before, self._db.text_factory = self._db.text_factory, readable
                try:
                    cursor = self._db.execute(sql)
                    while records := cursor.fetchmany(_IN_A_BLOCK):
                        yield records
                    require_still(self._db)
                finally:
                    self._db.text_factory = before
        except DAMAGE as exc:
            require_still(self._db)
            raise unreadable(self._path, exc) from exc

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            return self._locked_rows(sql, parameters)

    def _locked_rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Like `_rows`, for a caller that holds the lock."""
        return fetched(self._db, self._path, sql, parameters)


def _by_row(records: Sequence[Any]) -> dict[int, Picture]:
    return dict(zip((record[0] for record in records), pictures_of(records), strict=True))


def _filled(values: Sequence[bytes]) -> list[bytearray]:
    """Repeat the last value up to a power of two: SQLite compiles a statement for each number of parameters."""
    return blobs([*values, *[values[-1]] * ((1 << (len(values) - 1).bit_length()) - len(values))])
