"""A list of pictures with the ids of their owner: a table, lines of JSON, or lines of a path, a tab and an id."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clipdex.base.errors import SourceError
from clipdex.base.json_text import parse_plain_json
from clipdex.base.object_paths import is_object
from clipdex.base.text_files import encoding_of
from clipdex.sources.csv_table import CsvTable
from clipdex.sources.locations import Elsewhere, located
from clipdex.sources.table import COLUMNS, BrokenTable

__all__ = ["IdList", "ListedItem"]

_JSON = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv")

_IN_BUCKET = "is an object in a bucket, and items are added from files of this machine; download it first"

# The longest line of JSON: metadata may have 1 MiB.
_LONGEST_LINE = 4 << 20


@dataclass(frozen=True)
class ListedItem:
    """A line of the list.

    where: for messages, as in "row 3". path: absolute. why: what is wrong with the line; "" if nothing is.
    """

    where: str
    id: str = ""
    path: bytes = b""
    metadata: Mapping[str, object] = field(default_factory=dict)
    why: str = ""


class IdList:
    """The lines of a list, which is read anew by each iteration, in order.

    A table (.csv, .tsv, or any file whose first line names a column of ids and one of paths) and lines of JSON
    objects (.jsonl, .ndjson, or any file that begins with a brace) have a field `id`, one of the picture's path,
    named like a table's (`COLUMNS`), and any others, which are the metadata. Any other file has lines of a path, a
    tab and an id. Relative paths start at `folder`.
    """

    def __init__(
        self,
        file: Path,
        *,
        folder: Path | None = None,
        name: str | None = None,
        column: str | None = None,
        id_column: str | None = None,
        delimiter: str | None = None,
    ) -> None:
        """Look at the beginning of the file.

        Args:
            folder: where relative paths start; if not given, the current one for pairs, else the file's.
            name: the list's name in messages; the file's if not given.
            column, id_column: names of the fields of the path and the id (default `id`).
            delimiter: of a table; detected if not given.

        Raises:
            InvalidArgument: the delimiter is not one character.
            SourceError: the file cannot be read, or has no such column.
        """
        self._file = file
        self.name = name or str(file)
        self._column = column
        self._id = id_column or "id"
        self._table: CsvTable | None = None
        start = self._start()
        suffix = file.suffix.lower()
        self._is_json = suffix in _JSON or (suffix not in _TABLES and start.lstrip()[:1] == "{")
        if not self._is_json and (suffix in _TABLES or column or id_column or delimiter or self._is_header(start)):
            self._table = CsvTable(file, column, delimiter)
            if self._id not in self._table.columns:
                there = ", ".join(map(repr, self._table.columns))
                raise SourceError(
                    f"{self.name}: has no column {self._id!r}; name the one of the ids with --id-column; its "
                    f"columns are {there}"
                )
        here = Path(os.path.abspath(file)).parent if self._is_json or self._table is not None else Path.cwd()
        self._folder = os.fsencode(os.path.abspath(folder or here))

    def __iter__(self) -> Iterator[ListedItem]:
        """Yield the lines; empty ones are left out.

        Raises:
            SourceError: the file cannot be read any further.
        """
        if self._table is not None:
            return self._rows(self._table)
        return self._objects() if self._is_json else self._pairs()

    def _start(self) -> str:
        try:
            with self._file.open("rb") as opened:
                start = opened.read(1 << 16)
        except (OSError, ValueError) as exc:
            raise SourceError(f"{self.name}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
        return start.decode(encoding_of(start[:4]), "replace")

    def _is_header(self, start: str) -> bool:
        first = start.splitlines()[0] if start.strip() else ""
        for delimiter in (",", ";", "\t", "|"):
            cells = {cell.strip().strip('"') for cell in first.split(delimiter)}
            if self._id in cells and cells & set(COLUMNS):
                return True
        return False

    def _rows(self, table: CsvTable) -> Iterator[ListedItem]:
        row = 0
        try:
            for row, each in enumerate(table.rows(), start=1):
                if each is not None:
                    cell, others = each
                    found = dict(others)
                    yield self._listed(f"row {row}", found.pop(self._id, ""), cell, found)
        except BrokenTable as exc:
            raise SourceError(f"{self.name}: cannot be read beyond row {row}: {exc}") from exc

    def _objects(self) -> Iterator[ListedItem]:
        for number, line in self._lines():
            where = f"line {number}"
            try:
                said = parse_plain_json(line)
            except ValueError as exc:
                yield ListedItem(where, why=f"is not JSON: {exc}")
                continue
            if not isinstance(said, dict):
                yield ListedItem(where, why='is no JSON object such as {"id": "17", "path": "a.jpg"}')
                continue
            fields = dict(said)
            column = self._column or next((name for name in COLUMNS if name in fields), COLUMNS[0])
            item_id, path = fields.pop(self._id, ""), fields.pop(column, "")
            if isinstance(item_id, int) and not isinstance(item_id, bool):
                item_id = str(item_id)
            if isinstance(fields.get("metadata"), dict):
                fields |= fields.pop("metadata")
            yield self._listed(where, item_id, path, fields)

    def _pairs(self) -> Iterator[ListedItem]:
        for number, line in self._lines():
            path, tab, item_id = os.fsdecode(line).partition("\t")
            if tab:
                yield self._listed(f"line {number}", item_id, path, {})
            else:
                yield ListedItem(
                    f"line {number}", why="has no tab; expected a path, a tab and an id, or a table with columns"
                )

    def _listed(self, where: str, item_id: object, path: object, metadata: Mapping[str, object]) -> ListedItem:
        if not isinstance(item_id, str) or not item_id:
            return ListedItem(where, why=f"has no {self._id}")
        if not isinstance(path, str) or not path.strip():
            return ListedItem(where, item_id, why="has no path of a picture")
        place = located(os.fsencode(path), self._folder)
        if isinstance(place, Elsewhere):
            return ListedItem(where, item_id, why=place.why)
        if is_object(place):
            return ListedItem(where, item_id, why=_IN_BUCKET)
        return ListedItem(where, item_id, place, metadata)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield (number from 1, line without its end) of the lines that are not empty."""
        try:
            with self._file.open("rb") as opened:
                number = 0
                while line := opened.readline(_LONGEST_LINE + 1):
                    number += 1
                    if len(line) > _LONGEST_LINE:
                        raise SourceError(f"{self.name}: line {number} is longer than {_LONGEST_LINE >> 20} MiB")
                    line = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b"\r\n")
                    if line.strip():
                        yield number, line
        except OSError as exc:
            raise SourceError(f"{self.name}: cannot be read: {exc.strerror}") from exc
