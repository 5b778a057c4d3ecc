"""Shared by tables of any format: choice of the column, the files it names, the table's lines in the ledger."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from clipdex.base.errors import SourceError
from clipdex.base.object_paths import is_object
from clipdex.base.records import Failure
from clipdex.sources.examined import examined
from clipdex.sources.locations import LONGEST_PATH, Elsewhere, located, member_path
from clipdex.sources.metadata import metadata_json
from clipdex.sources.object_store import FETCHES
from clipdex.sources.scan import FoundFile
from clipdex.sources.storage import FileState, state_of

__all__ = [
    "COLUMNS",
    "BrokenTable",
    "RowLedger",
    "choose_column",
    "named_files",
    "names_objects",
    "row_id",
    "table_state",
]

# Looked for in this order if no column is named.
COLUMNS = ("path", "file", "filename", "image_path", "image", "bytes", "jpg")


def choose_column(table: str | Path, names: Sequence[str], wanted: str | None) -> str:
    """Choose the column of pictures or paths.

    Raises:
        SourceError: there is no column of that name, or of the usual names.
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
        f"{table}: none of its columns is named {', '.join(COLUMNS)}; name the one of the pictures or their paths "
        f"with --column; its columns are {there}"
    )


def table_state(table: bytes) -> FileState:
    """Return a table's size and times. Raises SourceError if it is gone."""
    try:
        return state_of(table)
    except OSError as exc:
        raise SourceError(f"{os.fsdecode(table)}: cannot be read any more: {exc.strerror}") from exc


def names_objects(table: bytes, rows: Iterator[tuple[str, Mapping[str, object]] | None]) -> bool:
    """Return whether a table of paths names objects of a bucket, as far as its first row tells."""
    with suppress(BrokenTable):
        cell = next((row[0] for row in rows if row is not None and row[0].strip()), "")
        path = located(os.fsencode(cell), os.path.dirname(table))
        return not isinstance(path, Elsewhere) and is_object(path)
    return False


def row_id(column: str, row: int) -> bytes:
    """Return what follows `TABLE!/`: the column, because a table may have several, and the row from 0."""
    return b"%b/%d" % (column.encode("utf-8", "surrogateescape"), row)


class RowLedger:
    """The table's lines in the ledger, to find those that are outdated."""

    def __init__(self, table: bytes) -> None:
        self._table = table
        self._bad: set[bytes] | None = None

    def start(self) -> set[bytes]:
        """Return a set for the lines of one pass, which counts once it is given to `complete`."""
        return set()

    def complete(self, bad: set[bytes]) -> None:
        """Record the lines of a pass that read the table to its end."""
        self._bad = bad

    def outdated(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the table's lines that the last complete pass did not have; none if there was no such pass."""
        if self._bad is None:
            return []
        prefix = member_path(self._table, b"")
        ours = (path for path in paths if path == self._table or path.startswith(prefix))
        return [path for path in ours if path not in self._bad]


class BrokenTable(Exception):
    """Raised if a row cannot be read, and so none after it. The text says why; it stays inside `sources/`."""


def named_files(
    table: bytes,
    column: str,
    rows: Iterator[tuple[str, Mapping[str, object]] | None],
    ledger: RowLedger,
    on_failure: Callable[[Failure], None],
    fetches: int = FETCHES,
) -> Iterator[FoundFile]:
    """Yield the files that a column names, in the order of the rows, each once.

    Relative paths start at the table's folder, which may be in a bucket; URLs of other kinds are failures. If
    several rows name the same file, the other columns of the first are kept.

    Args:
        rows: the path in each row and the row's other columns; None for an empty line.
    """
    named = _named(table, column, rows, ledger, on_failure)
    return examined(named, on_failure, fetches)


def _named(
    table: bytes,
    column: str,
    rows: Iterator[tuple[str, Mapping[str, object]] | None],
    ledger: RowLedger,
    on_failure: Callable[[Failure], None],
) -> Iterator[tuple[bytes, str]]:
    """Yield the paths that a column names, each once, and the row's metadata."""
    folder = os.path.dirname(table)
    state = table_state(table)
    seen: set[bytes] = set()
    bad = ledger.start()

    def fail(path: bytes, reason: str, detail: str) -> None:
        bad.add(path)
        on_failure(Failure(path, reason, detail, state.size, state.mtime_ns, state.ctime_ns))

    number = -1
    try:
        for number, row in enumerate(rows):
            if row is None:
                continue
            cell, others = row
            if not cell.strip():
                where = member_path(table, row_id(column, number))
                fail(where, "empty", f"the column {column!r} is empty in this row")
                continue
            text = os.fsencode(cell)
            path = located(text, folder)
            if isinstance(path, Elsewhere):
                name = text if len(text) <= LONGEST_PATH else member_path(table, row_id(column, number))
                if name not in bad:
                    fail(name, "not_a_path", path.why)
            elif path not in seen:
                seen.add(path)
                yield path, metadata_json(others)
    except BrokenTable as exc:
        fail(table, "broken_container", f"it cannot be read beyond row {number}: {exc}")
        return
    ledger.complete(bad)
