"""What tables of any format share: which column, how a row is called, and their lines in the ledger."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from clipdex.errors import SourceError
from clipdex.sources.members import member_path

__all__ = ["COLUMNS", "RowLedger", "choose_column", "row_id", "state_of"]

# Looked for in this order where no column is named.
COLUMNS = ("path", "file", "filename", "image_path", "image", "bytes", "jpg")


def choose_column(table: Path, names: Sequence[str], wanted: str | None) -> str:
    """The column of pictures or paths.

    Raises:
        SourceError: there is none of that name, or none of the usual names.
    """
    there = ", ".join(repr(name) for name in names) or "none"
    if wanted is not None:
        if wanted not in names:
            raise SourceError(f"{table}: has no column {wanted!r}; its columns are {there}")
        return wanted
    for name in COLUMNS:
        if name in names:
            return name
    raise SourceError(
        f"{table}: none of its columns is called {', '.join(COLUMNS)}; say with --column which one holds the "
        f"pictures or their paths; its columns are {there}"
    )


def state_of(table: bytes) -> os.stat_result:
    """A table's size and time. Raises SourceError if it is gone by now."""
    try:
        return os.stat(table)
    except OSError as exc:
        raise SourceError(f"{os.fsdecode(table)}: cannot be read any more: {exc.strerror}") from exc


def row_id(column: str, row: int) -> bytes:
    """What stands behind `TABLE!/`: the column, because a table may have several, and the row from 0."""
    return b"%b/%d" % (column.encode("utf-8", "surrogateescape"), row)


class RowLedger:
    """Which of the ledger's lines a table has put there still hold."""

    def __init__(self, table: bytes) -> None:
        self._table = table
        self._bad: set[bytes] | None = None

    def start(self) -> set[bytes]:
        """A set for the lines of one pass; it counts once `complete` is told so."""
        return set()

    def complete(self, bad: set[bytes]) -> None:
        """The table was read to its end, and these were its lines."""
        self._bad = bad

    def outdated(self, paths: Iterable[bytes]) -> list[bytes]:
        """Those of the table's lines that the last whole pass did not have; none if there was no such pass."""
        if self._bad is None:
            return []
        prefix = member_path(self._table, b"")
        ours = (path for path in paths if path == self._table or path.startswith(prefix))
        return [path for path in ours if path not in self._bad]
