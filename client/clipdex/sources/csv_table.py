"""A CSV or TSV file with a column of paths; its other columns are kept with each picture."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

from clipdex.errors import SourceError
from clipdex.index.rows import Failure
from clipdex.sources.scan import FoundFile
from clipdex.sources.table import BrokenTable, RowLedger, choose_column, named_files

__all__ = ["CsvTable"]

# Python's own limit, 128 KiB, would end a table at a field that is only to be left out. Some limit there must be:
# what stands behind a quote that nobody closed is one cell, and the reader takes four bytes for each character.
_LONGEST_CELL = 16 << 20


class CsvTable:
    """The files that a column names, each once; relative paths are meant from the table's folder.

    They are indexed under their own paths. The first line names the columns.
    """

    names_files = True

    def __init__(self, table: Path, column: str | None = None) -> None:
        """column: the one of paths; if not given, the first of `table.COLUMNS` that there is.

        Raises:
            SourceError: the table cannot be read, or has no such column.
        """
        self._table = Path(os.path.abspath(table))
        self._delimiter = "\t" if table.suffix.lower() == ".tsv" else ","
        lines = self._lines()
        try:
            self._names = next(lines, [])
        except csv.Error as exc:
            raise SourceError(f"{table}: its first line cannot be read: {exc}") from exc
        finally:
            lines.close()
        self._column = choose_column(table, self._names, column)
        self._at = self._names.index(self._column)
        self._ledger = RowLedger(os.fsencode(self._table))

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """In the order of the rows."""
        return named_files(os.fsencode(self._table), self._column, self._rows(), self._ledger, on_failure)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """The table's own ledger lines that no longer hold; of the files it names or named, none."""
        return self._ledger.outdated(paths)

    def nothing_found(self) -> SourceError:
        """Names the table and the column."""
        return SourceError(f"{self._table}: the column {self._column!r} names no file")

    def _rows(self) -> Iterator[tuple[str, dict[str, object]] | None]:
        lines = self._lines()
        next(lines, None)
        try:
            for cells in lines:
                pairs = enumerate(zip(self._names, cells, strict=False))
                others: dict[str, object] = {name: cell for at, (name, cell) in pairs if at != self._at and cell}
                yield (cells[self._at] if self._at < len(cells) else "", others) if cells else None
        except csv.Error as exc:
            raise BrokenTable(str(exc)) from exc

    def _lines(self) -> Generator[list[str], None, None]:
        try:
            csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
            # Bytes that are not UTF-8 come back as they were when a cell is taken for a path.
            with self._table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                yield from csv.reader(file, delimiter=self._delimiter, strict=True)
        except OSError as exc:
            raise SourceError(f"{self._table}: cannot be read: {exc.strerror}") from exc
