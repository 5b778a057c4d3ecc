"""Shared by tables of any format: choice of the column, the files it names, the table's lines in the ledger."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from clipdex.base.errors import SourceError
from clipdex.base.records import Failure
from clipdex.sources.locations import LONGEST_PATH, Elsewhere, located, member_path
from clipdex.sources.metadata import metadata_json
from clipdex.sources.scan import FoundFile, regular_file

__all__ = ["COLUMNS", "BrokenTable", "RowLedger", "choose_column", "named_files", "row_id", "state_of"]

# Looked for in this order if no column is named.
COLUMNS = ("path", "file", "filename", "image_path", "image", "bytes", "jpg")


def choose_column(table: Path, names: Sequence[str], wanted: str | None) -> str:
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


def state_of(table: bytes) -> os.stat_result:
    """Return a table's size and times. Raises SourceError if it is gone."""
    try:
        return os.stat(table)
    except OSError as exc:
        raise SourceError(f"{os.fsdecode(table)}: cannot be read any more: {exc.strerror}") from exc


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
) -> Iterator[FoundFile]:
    """Yield the files that a column names, in the order of the rows, each once.

    Relative paths start at the table's folder; URLs are failures. If several rows name the same file, the other
    columns of the first are kept.

    Args:
        rows: the path in each row and the row's other columns; None for an empty line.
    """
    folder = os.path.dirname(table)
    state = state_of(table)
    seen: set[bytes] = set()
    bad = ledger.start()

    def fail(path: bytes, reason: str, detail: str) -> None:
        bad.add(path)
        on_failure(Failure(path, reason, detail, state.st_size, state.st_mtime_ns, state.st_ctime_ns))

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
                continue
            if path in seen:
                continue
            seen.add(path)
            info = regular_file(path, on_failure)
            if info is not None:
                yield FoundFile.of(path, info, metadata_json(others))
    except BrokenTable as exc:
        fail(table, "broken_container", f"it cannot be read beyond row {number}: {exc}")
        return
    ledger.complete(bad)
