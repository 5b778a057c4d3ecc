"""The tables of rows.sqlite, and connections to the database."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipdex.base.errors import IndexDamaged, IndexFault
from clipdex.index.checksum import record_crc32c
from clipdex.index.file_system import lacking
from clipdex.index.files import has_other_names, require_database
from clipdex.index.manifest import MANIFEST

__all__ = [
    "APPLICATION_ID",
    "DAMAGE",
    "EXIF",
    "EXIF_VERSION",
    "LATER",
    "OPTIONAL",
    "SCHEMA",
    "SCHEMA_VERSION",
    "Still",
    "connect",
    "connect_new",
    "fetched",
    "readable",
    "require_schema",
    "require_still",
    "still",
    "unreadable",
    "was_refused",
]

# "clpx" in ASCII: `file rows.sqlite` and other tools can tell whose database it is.
APPLICATION_ID = 0x636C7078
SCHEMA_VERSION = 1
EXIF_VERSION = 2  # of an index that has the table `exif`, so that versions without it say that they are too old

SCHEMA = """
CREATE TABLE rows (
    row          INTEGER PRIMARY KEY,      -- position in the vectors file, from 0
    path         BLOB    NOT NULL,         -- absolute, as the file system spells it
    size         INTEGER NOT NULL,         -- of the file, in bytes
    mtime_ns     INTEGER NOT NULL,
    content_hash BLOB    NOT NULL,         -- BLAKE2b of the file, 16 bytes
    width        INTEGER NOT NULL,         -- of the picture as shown, in pixels
    height       INTEGER NOT NULL,
    deleted_at   INTEGER,                  -- a tombstone: seconds since 1970; NULL while the row is live
    crc32c       INTEGER NOT NULL          -- of the columns before it
) STRICT;
CREATE UNIQUE INDEX rows_by_path ON rows (path) WHERE deleted_at IS NULL;
CREATE INDEX rows_by_content ON rows (content_hash);
CREATE INDEX tombstones ON rows (row) WHERE deleted_at IS NOT NULL;
CREATE TABLE extents (                     -- the commit record: one line for each commit that added rows
    first_row      INTEGER PRIMARY KEY,
    row_count      INTEGER NOT NULL,
    vectors_crc32c INTEGER NOT NULL,       -- CRC-32C (Castagnoli) of the extent's bytes in the vectors file
    committed_at   INTEGER NOT NULL,
    crc32c         INTEGER NOT NULL
) STRICT;
CREATE TABLE failures (                    -- the ledger: files that could not be indexed
    path         BLOB    PRIMARY KEY,
    reason       TEXT    NOT NULL,         -- a code; docs/failures.md lists them
    detail       TEXT    NOT NULL,
    size         INTEGER NOT NULL,
    mtime_ns     INTEGER NOT NULL,
    failed_at    INTEGER NOT NULL,
    crc32c       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE metadata (                    -- what came with a picture: a caption, the columns of its table
    row    INTEGER PRIMARY KEY,            -- as in rows; rows with nothing to say have no record here
    json   TEXT    NOT NULL,               -- an object
    crc32c INTEGER NOT NULL
) STRICT;
"""

# Not in the indexes of the first versions of clipdex: a writer adds them.
_PHASHES = """
CREATE TABLE IF NOT EXISTS phashes (       -- what a picture looks like, to find it resized or recompressed
    row    INTEGER PRIMARY KEY,            -- as in rows
    phash  BLOB    NOT NULL,               -- a perceptual signature; docs/index-format.md says what is in it
    crc32c INTEGER NOT NULL
) STRICT;
"""

# In tables of their own, so that older versions of clipdex can read and write the index. They leave an old ctime
# here: then the file is read again, and nothing worse happens.
_CTIMES = """
CREATE TABLE IF NOT EXISTS ctimes (        -- when the file system last changed anything of a row's file
    row      INTEGER PRIMARY KEY,          -- as in rows
    ctime_ns INTEGER NOT NULL,
    crc32c   INTEGER NOT NULL
) STRICT;
"""
_FAILURE_CTIMES = """
CREATE TABLE IF NOT EXISTS failure_ctimes (
    path     BLOB    PRIMARY KEY,          -- as in failures
    ctime_ns INTEGER NOT NULL,
    crc32c   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

# By name: the statement that makes it.
LATER = {"phashes": _PHASHES, "ctimes": _CTIMES, "failure_ctimes": _FAILURE_CTIMES}

# Made by the first commit that has something to put into it. In columns, so that filters read no JSON.
EXIF = """
CREATE TABLE IF NOT EXISTS exif (          -- what a picture's file says of it, in EXIF, XMP or IPTC
    row          INTEGER PRIMARY KEY,      -- as in rows; rows whose file says nothing have no record here
    taken        TEXT,                     -- 2024-06-01T17:30:00, by the camera's clock
    taken_offset TEXT,                     -- +02:00
    make         TEXT,
    camera       TEXT,                     -- the model
    lens         TEXT,
    latitude_e7  INTEGER,                  -- in 10^-7 degrees
    longitude_e7 INTEGER,
    rating       INTEGER,                  -- -1 to 5
    keywords     TEXT,                     -- a JSON list
    title        TEXT,
    description  TEXT,
    crc32c       INTEGER NOT NULL
) STRICT;
"""

# Of a writer. A commit of 16,384 rows changes some 8 MB, and a fifth of the tree of content hashes besides: pages
# that do not fit are written to the WAL before it ends, and read again.
_CACHE_KIB = 64 << 10

# The tables that may be missing.
OPTIONAL = {**LATER, "exif": EXIF}

# What reading a damaged database raises: a flipped bit makes invalid UTF-8, even in SQLite's own messages.
DAMAGE = (sqlite3.Error, UnicodeDecodeError)

# SQLite's messages if the system refuses something or another process has a lock: they do not mean damage.
_REFUSALS = {
    "attempt to write a readonly database",
    "database is locked",
    "database or disk is full",
    "disk I/O error",
    "locking protocol",
    "unable to open database file",
}
# The kinds of "disk I/O error" that do mean damage, by the name that Python has since 3.11.
_UNREADABLE = {"SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS"}


def was_refused(error: Exception) -> bool:
    """Return whether the system refused something to SQLite, which does not mean that the file is damaged."""
    return str(error) in _REFUSALS and getattr(error, "sqlite_errorname", "") not in _UNREADABLE


def unreadable(path: Path, error: Exception) -> IndexFault:
    """Translate one of `DAMAGE`, raised while reading: IndexDamaged, or IndexFault if the system refused."""
    if was_refused(error):
        return IndexFault(f"{path}: cannot be read now: {error}; this does not mean that the index is damaged")
    return IndexDamaged(f"{path}: cannot be read: {error}")


def readable(raw: bytes) -> str:
    """Decode a text that may be damaged and so not UTF-8: its checksum will not match."""
    return raw.decode("utf-8", "surrogateescape")


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """Open the database in autocommit mode: transactions are begun explicitly.

    `record_crc32c` is available in SQL, for commits only: Ctrl-C inside it would look like damage. It gets keys
    and new values only; stored values are checked outside SQL, as they may have a type that no record has.

    Raises:
        IndexDamaged: it, or a file that SQLite has beside it, is not a regular file.
        IndexWriteError: for writing: one of them has other names (hard links).
        IndexFault: for reading: one of them that SQLite writes even then has other names.
        sqlite3.Error: it cannot be opened.
    """
    require_database(path, write=write)
    uri = "file:" + quote(os.fsencode(path.absolute()))  # a path may contain ?, # and bytes that are not UTF-8
    if write:
        db = _open(uri + "?mode=rw")
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.text_factory = readable  # damaged rows are replaced or left out
            db.execute("PRAGMA synchronous = FULL")  # a commit is on disk when it returns, not some time later
            db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        except BaseException:
            db.close()
            raise
        return db
    if lacking(path.with_name(MANIFEST)) is not None:  # SQLite would take this for another process, and wait
        if (state := still(path)) is None:
            raise sqlite3.OperationalError("database is locked")
        return _opened_still(uri, path, state)
    # Readers write to it, too, and begin by truncating it.
    shared = path.with_name(path.name + "-shm")
    if has_other_names(shared):
        if (state := still(path)) is None:
            raise IndexFault(
                f"{shared}: has other names (hard links), as `cp -al` gives, and SQLite would write to it even to "
                "read: wait for a process that writes the index, or copy its directory with `cp -r`, and read that"
            )
        return _opened_still(uri, path, state)
    db = _open(uri + "?mode=ro")
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        # A full disk or a read-only medium: SQLite cannot make its small files.
        db.close()
        state = still(path)
        if state is None:
            raise
        return _opened_still(uri, path, state)
    except BaseException:
        db.close()
        raise
    return db


def _opened_still(uri: str, path: Path, state: tuple[int, ...]) -> Still:
    """Open a database without SQLite's small files: its WAL is empty, and `Still` checks that it stays so."""
    db = _open(uri + "?immutable=1", Still)
    assert isinstance(db, Still)
    db.path, db.state = path, state
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        db.close()
        raise
    return db


def blobs(values: Iterable[bytes]) -> list[bytearray]:
    """Return what to give to SQLite for many bytes: of each bytes, and of None, Python looks for an adapter first.

    That takes four times as long as to bind a number, bytearray or text, for which it does not.
    """
    return list(map(bytearray, values))


def connect_new(path: Path) -> sqlite3.Connection:
    """Create a database at a path that does not exist, in a folder of our own."""
    return sqlite3.connect(path, isolation_level=None, timeout=0)  # only missing locks could make it wait


def require_schema(db: sqlite3.Connection, path: Path) -> None:
    """Raise IndexDamaged unless a database has exactly the tables and indexes of an index, as they were made.

    A view or a virtual table in place of a table could run its author's code when it is read, a trigger when
    something is written. Comments and spaces may differ between versions.
    """
    try:
        text_factory, db.text_factory = db.text_factory, readable
        try:
            found = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        finally:
            db.text_factory = text_factory
    except DAMAGE as exc:
        raise unreadable(path, exc) from exc
    expected = _objects()
    wrong = [
        f"has {'an' if kind == 'index' else 'a'} {kind} {str(name)!r} that no index has"
        if name not in expected
        else f"has the {kind} {name!r} in another form than an index has"
        for kind, name, of, sql in found
        if expected.get(name) != (kind, of, _plain(sql))
    ]
    names = {name for _, name, _, _ in found}
    wrong += [
        f"lacks the {kind} {name!r} that every index has"
        for name, (kind, of, _) in expected.items()
        if name not in names and of not in OPTIONAL
    ]
    if wrong:
        more = f" (and {len(wrong) - 1:,} more such faults)" if len(wrong) > 1 else ""
        raise IndexDamaged(
            f"{path}: {wrong[0]}{more}; it was changed or is damaged: take the index from a copy, "
            "or build it again"
        )


@cache
def _objects() -> dict[str, tuple[str, str, str | None]]:
    """The objects in the schema of an index, by name: type, table, and SQL without comments."""
    db = sqlite3.connect(":memory:")
    try:
        db.executescript(SCHEMA + "".join(OPTIONAL.values()))
        found = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        return {name: (kind, of, _plain(sql)) for kind, name, of, sql in found}
    finally:
        db.close()


def _plain(sql: object) -> str | None:
    """Remove the comments of a statement. None of ours has `--` in a string, nor has what equals one of ours."""
    return " ".join(re.sub(r"--[^\n]*", " ", sql).split()) if isinstance(sql, str) else None


class Still(sqlite3.Connection):
    """A connection without locks, to a database that no process writes.

    state: the result of `still` when it was opened.
    """

    path: Path
    state: tuple[int, ...]

    def require_still(self) -> None:
        """Raise IndexFault if the database was written to since: what was read may be inconsistent."""
        try:
            now = still(self.path)
        except OSError:
            now = None
        if now != self.state:
            raise IndexFault(
                f"{self.path}: was written to while it was read, where its file system gives no locks or has no "
                "room for SQLite's small files, or these have other names: open it again"
            )


def require_still(db: sqlite3.Connection) -> None:
    """Check a `Still` connection after each read, failed or not; a connection with locks needs no check."""
    if isinstance(db, Still):
        db.require_still()


def fetched(db: sqlite3.Connection, path: Path, sql: str, values: Sequence[object] = ()) -> list[Any]:
    """Run a SELECT of this package on the database at a path -> all its rows.

    Raises:
        IndexDamaged: what it reads is damaged.
        IndexFault: the system refuses to read it now, or, on a file system without locks, it was written to
            meanwhile.
    """
    try:
        found = db.execute(sql, values).fetchall()
        require_still(db)
        return found
    except DAMAGE as exc:
        require_still(db)
        raise unreadable(path, exc) from exc


def still(path: Path) -> tuple[int, ...] | None:
    """Identify the state of a database that no process writes; None if its WAL is not empty."""
    try:
        if path.with_name(path.name + "-wal").stat().st_size:
            return None
    except FileNotFoundError:
        pass
    except OSError:
        return None
    found = os.stat(path)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _open(uri: str, kind: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    db: sqlite3.Connection
    if kind is Still:
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, factory=Still)
    else:
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA trusted_schema = OFF")  # a stranger's schema must not call our functions
    db.create_function("record_crc32c", -1, record_crc32c, deterministic=True)
    return db
