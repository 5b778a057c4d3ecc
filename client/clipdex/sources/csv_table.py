"""A CSV or TSV file with a column of paths; its other columns are kept with each picture."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import cast

from clipdex.base.errors import InvalidArgument, SourceError
from clipdex.base.git_lfs import pointer_words
from clipdex.base.records import Failure
from clipdex.base.text_files import encoding_of
from clipdex.sources.object_store import FETCHES
from clipdex.sources.scan import FoundFile
from clipdex.sources.storage import identity_of, is_pointer_at, open_file, state_of
from clipdex.sources.table import COLUMNS, BrokenTable, RowLedger, choose_column, named_files, names_objects

__all__ = ["CsvTable"]

# Python's own limit, 128 KiB, would end a table at a field that is to be left out anyway. Some limit is needed:
# everything after an unclosed quote is one cell, and the reader takes four bytes for each character.
_LONGEST_CELL = 16 << 20
_BUFFER = 64 << 10

# Excel writes semicolons where the decimal point is a comma.
_DELIMITERS = (",", ";", "\t", "|")


class CsvTable:
    """A source of the files that a column names, each once; relative paths start at the table's folder.

    They are indexed under their own paths. The first line names the columns, or the second if the first is Excel's
    `sep=;`. The delimiter is detected from that line, or from the names.
    """

    names_files = True

    def __init__(
        self,
        table: str | Path,
        column: str | None = None,
        delimiter: str | None = None,
        *,
        fetches: int = FETCHES,
    ) -> None:
        """table: a path, or the URL of an object. column: the column of paths; if not given, the first of
        `table.COLUMNS` that exists.
        delimiter: the cell delimiter, one character. fetches: objects of a bucket to read at a time.

        Raises:
            InvalidArgument: the delimiter is not one character, or is a quote or line break.
            SourceError: the table cannot be read, or has no such column.
        """
        self._table = identity_of(table)
        self._fetches = fetches
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
            raise InvalidArgument(f"the delimiter {delimiter!r} is not one character, such as ';'")
        if is_pointer_at(self._table):
            raise SourceError(pointer_words(table, "the table"))
        # The suffix .tsv suggests tabs, but is wrong at times.
        usual = "\t" if self._table.lower().endswith(b".tsv") else ","
        said = self._said()
        self._header = 1 if said is None else 2  # the line of the names
        self._delimiter = delimiter or said or self._guessed(usual, column)
        try:
            self._names = self._named(self._delimiter)
            self._column = choose_column(table, self._names, column)
        except csv.Error as exc:
            raise SourceError(f"{table}: its first line cannot be read: {exc}{self._advice()}") from exc
        except SourceError as exc:
            raise SourceError(f"{exc}{self._advice()}") from exc
        self._at = self._names.index(self._column)
        self._ledger = RowLedger(self._table)

    @property
    def columns(self) -> list[str]:
        """The names of its columns."""
        return self._names

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the files in the order of the rows."""
        return named_files(self._table, self._column, self.rows(), self._ledger, on_failure, self._fetches)

    def is_costly(self) -> bool:
        """Return whether a pass asks a bucket for each file."""
        with closing(self.rows()) as rows:
            return names_objects(self._table, rows)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the table's own outdated lines in the ledger, but none of the files it names or named."""
        return self._ledger.outdated(paths)

    def nothing_found(self) -> SourceError:
        """Return the error, which names the table and the column."""
        return SourceError(f"{os.fsdecode(self._table)}: the column {self._column!r} names no file")

    def rows(self) -> Generator[tuple[str, dict[str, object]] | None, None, None]:
        """Yield (the path in the row, its other cells by column); None for an empty line. Raises BrokenTable."""
        lines = self._lines(self._delimiter)
        next(lines, None)
        try:
            for cells in lines:
                pairs = enumerate(zip(self._names, cells, strict=False))
                others: dict[str, object] = {name: cell for at, (name, cell) in pairs if at != self._at and cell}
                yield (cells[self._at] if self._at < len(cells) else "", others) if cells else None
        except (csv.Error, UnicodeError) as exc:
            raise BrokenTable(str(exc)) from exc

    def _said(self) -> str | None:
        """Return the delimiter that Excel's first line states: `sep=;`."""
        with closing(self._text()) as lines, suppress(UnicodeError):
            first = next(lines, "").rstrip("\r\n").strip('"')
            if first[:4].lower() == "sep=" and len(first) == 5:
                return first[4]
        return None

    def _guessed(self, usual: str, column: str | None) -> str:
        """Return the usual delimiter, unless only another one yields the wanted column."""
        wanted = set(COLUMNS) if column is None else {column}
        fitting = [each for each in dict.fromkeys((usual, *_DELIMITERS)) if wanted & set(self._tried(each))]
        return usual if usual in fitting or len(fitting) != 1 else fitting[0]

    def _advice(self) -> str:
        """Return advice for an error if another delimiter would yield more columns; else ""."""
        likelier = max((self._delimiter, *_DELIMITERS), key=lambda each: len(self._tried(each)))
        if likelier == self._delimiter:
            return ""
        typed = "tab" if likelier == "\t" else f"'{likelier}'"
        return (
            f"; they seem to be separated by {likelier!r}, but were read as separated by {self._delimiter!r}: "
            f"give --delimiter {typed}"
        )

    def _tried(self, delimiter: str) -> list[str]:
        try:
            return self._named(delimiter)
        except csv.Error:
            return []

    def _named(self, delimiter: str) -> list[str]:
        """Read the columns' names. Raises csv.Error."""
        with closing(self._lines(delimiter)) as lines:
            try:
                return next(lines, [])
            except UnicodeError as exc:
                raise csv.Error(str(exc)) from exc

    def _lines(self, delimiter: str) -> Generator[list[str], None, None]:
        """Yield the cells of each line, from the line of names on."""
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
        with closing(self._text()) as lines:
            for _ in range(self._header - 1):
                next(lines, None)
            yield from csv.reader(lines, delimiter=delimiter, strict=True)

    def _text(self) -> Generator[str, None, None]:
        """Yield the lines of the file. Raises UnicodeError if it contradicts its byte order mark."""
        try:
            state = state_of(self._table)
            with open_file(self._table, state) as start:
                encoding = encoding_of(start.read(4))
            # Bytes that are not UTF-8 are restored when a cell is used as a path.
            errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
            buffered = io.BufferedReader(cast(io.RawIOBase, open_file(self._table, state)), _BUFFER)
            with io.TextIOWrapper(buffered, encoding=encoding, errors=errors, newline="") as file:
                yield from file
        except OSError as exc:
            raise SourceError(f"{os.fsdecode(self._table)}: cannot be read: {exc.strerror}") from exc
