"""Databases beside rows.sqlite: opening one that may be anything, and writing to it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipdex.base.errors import IndexWriteError
from clipdex.index.schema import DAMAGE, connect, unreadable

__all__ = ["open_database", "transaction"]


def open_database(path: Path, accept: Callable[[sqlite3.Connection], None], *, write: bool) -> sqlite3.Connection:
    """Open a database that exists.

    accept: looks at what it has, and may write to it; raises what is wrong.

    Raises:
        IndexDamaged: it is damaged, or no regular file.
        IndexWriteError: it cannot be opened for writing, or written to.
        IndexFault: the system refuses to read it now.
        Whatever `accept` raises.
    """
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
