"""Databases beside rows.sqlite: making one, opening one that may be anything, and writing to it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from clipdex.base.errors import IndexWriteError
from clipdex.index.files import create, rename, require_no_journal, require_regular, sync_directory
from clipdex.index.schema import DAMAGE, connect, connect_new, unreadable

__all__ = ["make_database", "open_database", "remove_database", "transaction"]

_PARTS = ("-journal", "-wal", "-shm", "")


def make_database(path: Path, fill: Callable[[sqlite3.Connection], object], *, page_bytes: int = 4096) -> None:
    """Make a database at a path that does not exist, under another name until it has what `fill` puts into it.

    It has a WAL from the start: SQLite changes to one by a rollback journal, which a kill would leave there.

    Raises:
        IndexWriteError: the disk is full or failed.
    """
    made = path.with_name(f"{path.name}.building")
    try:
        for suffix in _PARTS:  # of one that was killed
            left = made.with_name(made.name + suffix)
            require_regular(left)
            with suppress(FileNotFoundError):
                left.unlink()
        create(made, b"")
        with closing(connect_new(made)) as db:
            db.execute(f"PRAGMA page_size = {page_bytes}")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN")
            fill(db)
            db.execute("COMMIT")
            # Closing does the same, but ignores that the disk refuses it.
            ((busy, *_),) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            if busy:
                raise sqlite3.OperationalError("database is locked")
        rename(made, path)
        sync_directory(path.parent)
    except (sqlite3.DatabaseError, OSError) as exc:
        why = (exc.strerror or exc) if isinstance(exc, OSError) else exc
        raise IndexWriteError(f"{path}: cannot be created: {why}") from exc


def remove_database(path: Path) -> None:
    """Remove a database, whatever state it is in. Raises IndexWriteError."""
    try:
        for suffix in _PARTS:
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).unlink()
        sync_directory(path.parent)
    except OSError as exc:
        raise IndexWriteError(f"{path}: cannot be removed: {exc.strerror}") from exc


def open_database(
    path: Path, accept: Callable[[sqlite3.Connection], None], *, write: bool, anew: str
) -> sqlite3.Connection:
    """Open a database that exists.

    accept: looks at what it has, and may write to it; raises what is wrong. anew: how to have a sound one.

    Raises:
        IndexDamaged: it is damaged, or no regular file.
        IndexWriteError: it cannot be opened for writing, or written to.
        IndexFault: the system refuses to read it now.
        Whatever `accept` raises.
    """
    require_no_journal(path, anew)
    try:
        db = connect(path, write=write)
    except sqlite3.OperationalError as exc:
        if write:
            raise IndexWriteError(f"{path}: cannot be opened for writing: {exc}") from exc
        raise unreadable(path, exc) from exc
    except DAMAGE as exc:
        raise unreadable(path, exc) from exc
    try:
        accept(db)
    except BaseException as exc:
        db.close()
        if isinstance(exc, sqlite3.OperationalError) and write:
            raise IndexWriteError(f"{path}: cannot be written: {exc}") from exc
        if isinstance(exc, DAMAGE):
            raise unreadable(path, exc) from exc
        raise
    return db


@contextmanager
def transaction(path: Path, db: sqlite3.Connection, lock: threading.Lock) -> Iterator[None]:
    """Make what is written in the block one transaction, on disk at its end, or without effect.

    Raises:
        IndexWriteError: the disk is full or failed.
    """
    try:
        with lock:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise
    except sqlite3.DatabaseError as exc:
        raise IndexWriteError(f"{path}: cannot be written: {exc}") from exc
