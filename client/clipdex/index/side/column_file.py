"""rows.columns: numbers and texts of the rows as arrays, read by conditions first. docs/index-format.md.

It only saves time. If it is missing, stale or damaged, SQLite evaluates the condition, and the answer is the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.base.errors import IndexDamaged
from clipdex.base.json_text import parse_plain_json
from clipdex.base.records import Extent
from clipdex.index.manifest import json_crc32c
from clipdex.index.row_reader import RowReader
from clipdex.index.schema import still
from clipdex.index.side.building import is_of_first
from clipdex.index.side.derived_file import Unusable, damages_of, logged, mapped, padded, usable
from clipdex.index.side.text_column import MOST_BYTES, TextColumn, text_column_of, text_length
from clipdex.index.stored import is_stored_count

__all__ = [
    "COLUMNS_FILE",
    "HEADER_BYTES",
    "SETTLED_S",
    "Column",
    "ColumnFile",
    "ColumnHeader",
    "ColumnPlace",
    "column_damages",
    "contents_of",
    "settled_state",
    "state_of",
]

COLUMNS_FILE = "rows.columns"
FORMAT, FORMAT_VERSION = "clipdex-columns", 2
_READ = (1, FORMAT_VERSION)  # version 1 has no texts
HEADER_BYTES = 65_536

KINDS = ("<i1", "<i2", "<i4", "<i8", "<f8")
TEXT_KINDS = ("t1", "t2", "t4")
_MOST_COLUMNS = 100
SETTLED_S = 2  # some file systems keep times to two seconds

# A commit may change anything but these in place, so the others are of one state of rows.sqlite.
_OF_THE_CONTENT = frozenset(("width", "height"))


@dataclass(frozen=True)
class Column:
    """The values of a column: whole numbers or float64 (rows,). nulls: which are NULL, bool (rows,), or None."""

    values: Array
    nulls: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class ColumnPlace:
    """Where a column is in the file. kind: one of `KINDS` or `TEXT_KINDS`. start: its offset.

    distinct, text_bytes: of texts, how many there are, and of how many bytes.
    """

    name: str
    kind: str
    nulls: bool
    start: int
    crc32c: int
    distinct: int = 0
    text_bytes: int = 0

    @property
    def is_text(self) -> bool:
        """Whether it has texts."""
        return self.kind in TEXT_KINDS

    @property
    def width(self) -> int:
        """The bytes of a value, or of a text's number."""
        return int(self.kind[-1])

    def length(self, rows: int) -> int:
        """The bytes of the values and of the nulls, a byte each; or of a column of texts."""
        if self.is_text:
            return text_length(rows, self.width, self.distinct, self.text_bytes)
        return rows * (self.width + self.nulls)

    def to_json(self) -> dict[str, object]:
        """Return its fields; those of texts only for texts."""
        return {name: value for name, value in self.__dict__.items() if self.is_text or name not in _OF_TEXTS}


_OF_TEXTS = ("distinct", "text_bytes")


@dataclass(frozen=True)
class ColumnHeader:
    """The header: for the first `rows` rows of an index, identified by `extents` and `contents`.

    contents: hexadecimal content hashes of the first and the last of them. state: the size in bytes and the time
    of modification in ns of rows.sqlite as it was read; None if it was not at rest.
    """

    rows: int
    extents: str
    contents: str
    state: tuple[int, int] | None
    columns: tuple[ColumnPlace, ...]
    format_version: int = FORMAT_VERSION

    @property
    def file_bytes(self) -> int:
        """The length of the file."""
        ends = [place.start + padded(place.length(self.rows)) for place in self.columns]
        return max([HEADER_BYTES, *ends])

    def to_bytes(self) -> bytes:
        """Encode the header as the first bytes of the file; longer than those if it has too much in it."""
        columns = [place.to_json() for place in self.columns]
        data = {"format": FORMAT, "format_version": FORMAT_VERSION} | self.__dict__ | {"columns": columns}
        data["state"] = None if self.state is None else list(self.state)
        return json.dumps(data | {"crc32c": json_crc32c(data)}).encode().ljust(HEADER_BYTES - 1) + b"\n"

    @classmethod
    def from_bytes(cls, raw: bytes) -> ColumnHeader:
        """Read a header. Raises Unusable."""
        try:
            data = parse_plain_json(raw)
            crc32c = data.pop("crc32c")
            version = data["format_version"]
            if data["format"] != FORMAT or type(version) is not int or version not in _READ:
                raise Unusable("has a format that this clipdex does not know")
            if crc32c != json_crc32c(data):
                raise Unusable("is damaged: its header is not what was written")
            state = None if data["state"] is None else tuple(data["state"])
            header = cls(data["rows"], data["extents"], data["contents"], state, _places(data["columns"]), version)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Unusable("is damaged: its header cannot be read") from exc
        if not header._is_plausible():
            raise Unusable("is damaged: a field of its header is missing or out of range")
        return header

    def _is_plausible(self) -> bool:
        texts = (self.extents, self.contents, *(place.name for place in self.columns))
        numbers = (
            self.rows,
            *(
                number
                for place in self.columns
                for number in (place.start, place.crc32c, place.distinct, place.text_bytes)
            ),
        )
        if not all(type(text) is str for text in texts) or not all(map(is_stored_count, numbers)):
            return False
        if self.state is not None and [type(number) for number in self.state] != [int, int]:
            return False
        return len(self.columns) <= _MOST_COLUMNS and all(
            (place.kind in KINDS or (place.is_text and self.format_version > 1))
            and type(place.nulls) is bool
            and place.text_bytes <= MOST_BYTES
            and place.start >= HEADER_BYTES
            and place.start == padded(place.start)
            for place in self.columns
        )


def _places(columns: object) -> tuple[ColumnPlace, ...]:
    found = []
    for place in columns:  # type: ignore[attr-defined]
        fields = [n for n in ColumnPlace.__dataclass_fields__ if place["kind"] in TEXT_KINDS or n not in _OF_TEXTS]
        found.append(ColumnPlace(**{name: place[name] for name in fields}))
    return tuple(found)


class ColumnFile:
    """An open side file that matches its index. Each column's checksum is checked when it is first used."""

    def __init__(self, directory: Path, header: ColumnHeader, data: npt.NDArray[np.uint8]) -> None:
        self._directory, self._path = directory, directory / COLUMNS_FILE
        self.header, self._data = header, data
        self.rows = header.rows
        self._places = {place.name: place for place in header.columns}
        self._known: dict[str, Column | TextColumn | None] = {}

    @classmethod
    def open(cls, directory: Path, extents: Sequence[Extent], store: RowReader) -> ColumnFile | None:
        """Open the side file of an index; None if there is none, or it cannot be used."""
        return usable(directory / COLUMNS_FILE, lambda: cls.require(directory, extents, store))

    @classmethod
    def require(cls, directory: Path, extents: Sequence[Extent], store: RowReader) -> ColumnFile:
        """Open the side file, like `open`, but raise FileNotFoundError or Unusable."""
        path = directory / COLUMNS_FILE
        try:
            found = mapped(
                path, HEADER_BYTES, ColumnHeader.from_bytes, lambda header: _require_fit(header, extents, store)
            )
        except IndexDamaged as exc:
            raise Unusable(str(exc).removeprefix(f"{path} ").removeprefix(f"{path}: ")) from exc
        return cls(directory, *found)

    def names(self) -> frozenset[str]:
        """The columns that can be used now: those a commit may have changed only if there was none since."""
        if self.header.state is not None and state_of(self._directory) == self.header.state:
            return frozenset(self._places)
        return _OF_THE_CONTENT & self._places.keys()

    def is_whole(self) -> bool:
        """Return whether every column can be used now, none is damaged, and no later format has others."""
        if self.header.format_version != FORMAT_VERSION or len(self.names()) != len(self._places):
            return False
        return None not in map(self._found, self._places)

    def column(self, name: str) -> Column | None:
        """Read a column of numbers that `names` gives; None if it is damaged, or of texts."""
        found = self._found(name)
        return found if isinstance(found, Column) else None

    def texts(self, name: str) -> TextColumn | None:
        """Read a column of texts that `names` gives; None if it is damaged, or of numbers."""
        found = self._found(name)
        return found if isinstance(found, TextColumn) else None

    def is_text(self, name: str) -> bool:
        """Return whether a column that `names` gives is of texts."""
        return self._places[name].is_text

    def _found(self, name: str) -> Column | TextColumn | None:
        if name not in self._known:
            try:
                self._known[name] = self._read(self._places[name])
            except Unusable as exc:
                logged(self._path, exc)
                self._known[name] = None
        return self._known[name]

    def _read(self, place: ColumnPlace) -> Column | TextColumn:
        damaged = Unusable(f"is damaged: the column {place.name!r:.60} is not what was written")
        raw = self._data[place.start : place.start + place.length(self.rows)]
        if google_crc32c.value(raw) != place.crc32c:
            raise damaged
        if place.is_text:
            texts = text_column_of(raw, self.rows, place.width, place.distinct, place.nulls)
            if texts is None:
                raise damaged
            return texts
        middle = self.rows * place.width
        values = raw[:middle].view(place.kind)
        nulls = raw[middle:].view(np.bool_) if place.nulls else None
        if nulls is not None and raw[middle:].max(initial=0) > 1:
            raise damaged
        return Column(values, nulls)


def column_damages(directory: Path, extents: Sequence[Extent], store: RowReader) -> list[str]:
    """Check the side file, if there is one -> its damage. Raises IndexFault if the system refuses to read it."""

    def checks(file: ColumnFile) -> list[Callable[[], object]]:
        return [partial(file._read, place) for place in file.header.columns]

    return damages_of(
        directory / COLUMNS_FILE, lambda: ColumnFile.require(directory, extents, store), checks, "it"
    )


def state_of(directory: Path) -> tuple[int, int] | None:
    """Identify the state of rows.sqlite by its size and time; None while SQLite has commits beside it."""
    try:
        found = still(directory / "rows.sqlite")
    except OSError:
        return None
    return None if found is None else (found[2], found[3])


def contents_of(store: RowReader, rows: int) -> str:
    """Return what a header for the first `rows` rows has as `contents`."""
    ends = sorted({0, rows - 1}) if rows else []
    try:
        found = store.pictures(ends)
    except IndexDamaged:
        return ""
    return "".join(found[row].content_hash.hex() for row in ends if row in found)


def settled_state(directory: Path, before: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the state of rows.sqlite if it has been that since `before`; None if the next could look the same."""
    now = state_of(directory)
    if now is None or now != before or time.time_ns() - now[1] < SETTLED_S * 10**9:
        return None
    return now


def _require_fit(header: ColumnHeader, extents: Sequence[Extent], store: RowReader) -> None:
    """Raise Unusable unless the header is for the first of these extents."""
    fits = is_of_first(extents, header.rows, header.extents)
    if not fits or contents_of(store, header.rows) != header.contents:
        raise Unusable("belongs to other rows than the index has now")
