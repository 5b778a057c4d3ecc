"""Writing rows.columns: numbers and texts of the rows as arrays, read from SQLite once."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import IndexFault, InvalidArgument
from clipdex.base.json_text import parsed_object
from clipdex.base.spelling import composed
from clipdex.index.column_where import KEY_PREFIX
from clipdex.index.files import write_at
from clipdex.index.picture_view import create_functions, create_view, exif_is_there, folder_of
from clipdex.index.reader import Index
from clipdex.index.rows import ROWS_FILE
from clipdex.index.schema import connect, fetched
from clipdex.index.side.building import building, digest, install
from clipdex.index.side.column_file import (
    COLUMNS_FILE,
    HEADER_BYTES,
    SETTLED_S,
    Column,
    ColumnHeader,
    ColumnPlace,
    contents_of,
    settled_state,
    state_of,
)
from clipdex.index.side.derived_file import padded
from clipdex.index.side.text_column import TextColumn, text_bytes
from clipdex.index.text_columns import FewTexts, texts_in_order
from clipdex.index.value_sql import is_plain_key

__all__ = ["build_columns", "merge_log"]

_ROWS_AT_ONCE = 50_000
_WORTH_WAITING = 50_000  # rows: below, SQLite is fast enough
_SAMPLED = 2_000  # rows, whose metadata say which keys are worth a column
_SAMPLED_AT_ONCE = 500
_MOST_KEYS = 16
_LEAST_SHARE = 0.05  # of the sampled rows
_OF_ROWS = ("width", "height", "size", "mtime_ns")
_OF_EXIF = ("latitude_e7", "longitude_e7", "rating")
_TEXTS_OF_EXIF = ("taken_offset", "make", "camera", "lens", "keywords")
_LONGEST_TEXT = 255  # characters, of metadata, in the sample
_EXACT = 1 << 53  # of whole numbers, float64 has all up to this


def build_columns(directory: Path) -> int:
    """Write the columns of every committed row of one index, unless they are there -> the size of the file.

    A column is left out that has both numbers and texts, or anything else.

    Raises:
        IndexDamaged: rows.sqlite cannot be read.
        IndexLocked: another process is writing them, or the index was compacted meanwhile.
        IndexWriteError: the disk is full or failed; the index is unchanged.
    """
    busy = f"{directory} is being optimized by another process; wait for it, or stop it"
    overtaken = f"{directory} has just been optimized by another process; try again"
    with Index.open(directory) as index, building(directory, COLUMNS_FILE, busy=busy, overtaken=overtaken) as fd:
        index.refresh()  # a compaction may have come before the new file was created, which is in the new index
        rows = len(index.vectors)
        if (old := index.columns()) is not None and old.rows == rows and old.is_whole():
            return old.header.file_bytes
        extents = [extent for extent in index.extents() if extent.first_row < rows]
        before = state_of(directory)
        places: list[ColumnPlace] = []
        at = HEADER_BYTES
        for name, column in chain(_of_rows(directory, rows), _of_keys(index, rows)):
            place, data = _placed(name, column, at)
            data = data.ljust(padded(len(data)), b"\0")
            write_at(fd, data, at)
            at += len(data)
            places.append(place)
        contents = contents_of(index.rows_now(), rows)
        state = _settled(directory, before, rows)
        header = ColumnHeader(rows, digest(extents), contents, state, tuple(places))
        write_at(fd, header.to_bytes(), 0)
        os.ftruncate(fd, header.file_bytes)
        install(fd, directory, COLUMNS_FILE, "optimize it again")
        return header.file_bytes


def _placed(name: str, column: Column | TextColumn, at: int) -> tuple[ColumnPlace, bytes]:
    """Encode a column -> its place from `at` on, and its bytes."""
    if isinstance(column, TextColumn):
        data, texts = text_bytes(column), column.texts
        kind, crc32c = f"t{column.codes.dtype.itemsize}", int(google_crc32c.value(data))
        return ColumnPlace(name, kind, column.nulls, at, crc32c, len(texts), len(texts.data)), data
    values = _narrow(column.values)
    data = values.tobytes() + (b"" if column.nulls is None else column.nulls.tobytes())
    kind = f"<{values.dtype.kind}{values.dtype.itemsize}"
    return ColumnPlace(name, kind, column.nulls is not None, at, int(google_crc32c.value(data))), data


def merge_log(directory: Path) -> None:
    """Have SQLite merge its log into rows.sqlite, if it can now: a reader that is open keeps a writer's from it.

    Until then, rows.sqlite has no state that columns could be of.
    """
    path = directory / ROWS_FILE
    if state_of(directory) is not None:
        return
    with suppress(sqlite3.Error, IndexFault), closing(connect(path, write=True)) as db:
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _settled(directory: Path, before: tuple[int, int] | None, rows: int) -> tuple[int, int] | None:
    """Return the state that the columns are of; of many rows it is worth seconds of waiting."""
    if before is not None and rows >= _WORTH_WAITING:
        time.sleep(min(max(0.0, SETTLED_S - (time.time() - before[1] / 1e9)), SETTLED_S))
    return settled_state(directory, before)


def _of_rows(directory: Path, rows: int) -> Iterator[tuple[str, Column | TextColumn]]:
    """Read the columns of the tables `rows` and `exif`."""
    path = directory / ROWS_FILE
    with closing(connect(path, write=False)) as db:
        create_functions(db, lambda function: function)
        create_view(db, with_exif=(with_exif := exif_is_there(db)))
        select = f"SELECT row, {', '.join(_OF_ROWS)}, path FROM rows WHERE row >= ? AND row < ? ORDER BY row"  # noqa: S608
        found = _Gathered((*_OF_ROWS, "folder"))
        for start in range(0, rows, _ROWS_AT_ONCE):
            end = min(start + _ROWS_AT_ONCE, rows)
            records = fetched(db, path, select, (start, end))
            found.add(start, end, [(*record[:-1], _folder(record[-1])) for record in records])
        yield from found.columns()
        if (paths := texts_in_order(db, path, "path", rows)) is not None:
            yield "path", paths
        if not with_exif:
            return
        names = (*_OF_EXIF, *_TEXTS_OF_EXIF)
        asked = ", ".join((*_OF_EXIF, *(f"CAST({name} AS BLOB)" for name in _TEXTS_OF_EXIF)))
        select = (
            f"SELECT rows.row, {asked} FROM rows LEFT JOIN exif ON exif.row = rows.row "  # noqa: S608
            "WHERE rows.row >= ? AND rows.row < ? ORDER BY rows.row"
        )
        found = _Gathered(names)
        for start in range(0, rows, _ROWS_AT_ONCE):
            end = min(start + _ROWS_AT_ONCE, rows)
            found.add(start, end, fetched(db, path, select, (start, end)))
        yield from found.columns()
        if (taken := texts_in_order(db, path, "taken", rows)) is not None:
            yield "taken", taken


def _folder(path: object) -> object:
    return folder_of(path) if isinstance(path, bytes) else path


def _of_keys(index: Index, rows: int) -> Iterator[tuple[str, Column | TextColumn]]:
    """Read the values of frequent metadata keys that are numbers, or short texts, as conditions see them."""
    keys = _frequent_keys(index, rows)
    if not keys:
        return
    found = _Gathered([KEY_PREFIX + key for key in keys])
    values = {f"key{i}": key for i, key in enumerate(keys)}
    # A text as its bytes, which need not be UTF-8: JSON may escape half of a surrogate pair.
    asked = ", ".join(
        f"CASE typeof(meta ->> :{name}) WHEN 'text' THEN CAST(meta ->> :{name} AS BLOB) ELSE meta ->> :{name} END"
        for name in values
    )
    try:
        for start in range(0, rows, _ROWS_AT_ONCE):
            end = min(start + _ROWS_AT_ONCE, rows)
            statement = f"SELECT row, {asked} FROM pictures WHERE row >= {start:d} AND row < {end:d} ORDER BY row"  # noqa: S608
            found.add(start, end, index.selected(statement, values))
    except InvalidArgument:  # metadata that are not JSON, or a SQLite without ->>
        return
    yield from found.columns()


def _frequent_keys(index: Index, rows: int) -> list[str]:
    sample = np.unique(np.linspace(0, max(0, rows - 1), min(_SAMPLED, rows)).astype(np.int64)).tolist()
    numbers, texts = Counter[str](), Counter[str]()
    for start in range(0, len(sample), _SAMPLED_AT_ONCE):
        for picture in index.pictures(sample[start : start + _SAMPLED_AT_ONCE]).values():
            with suppress(ValueError):
                for key, value in parsed_object(picture.metadata or "{}").items():
                    if not is_plain_key(key):
                        continue
                    if isinstance(value, (int, float)):
                        numbers[composed(key)] += 1
                    elif isinstance(value, str) and len(value) <= _LONGEST_TEXT:
                        texts[composed(key)] += 1
    least = _LEAST_SHARE * len(sample)
    found = [key for kind in (numbers, texts) for key, count in kind.most_common(_MOST_KEYS) if count >= least]
    return [*dict.fromkeys(found)]


class _Gathered:
    """Columns that are read piece by piece, of numbers or of texts that are mostly the same few."""

    def __init__(self, names: Sequence[str]) -> None:
        self._columns: dict[str, _Numbers | FewTexts | None] = dict.fromkeys(names)
        self._dropped: set[str] = set()
        self._rows = 0

    def add(self, start: int, end: int, records: list[tuple[Any, ...]]) -> None:
        """Add the records (row, values ...) of the next rows [start, end).

        A column is dropped of which a value is neither NULL, nor a number, nor, as bytes, a text; or both.
        """
        if [record[0] for record in records] != list(range(start, end)):  # damage, which is SQLite's to report
            self._dropped.update(self._columns)
        for at, name in enumerate(self._columns, 1):
            if name in self._dropped:
                continue
            values = [record[at] for record in records]
            kinds = set(map(type, values))
            column = self._columns[name]
            if column is None and kinds != {type(None)}:
                column = self._columns[name] = FewTexts() if bytes in kinds else _Numbers()
                if self._rows:
                    column.add([None] * self._rows)
            if column is None:
                continue
            allowed = {bytes, type(None)} if isinstance(column, FewTexts) else {int, float, type(None)}
            if not kinds <= allowed or not column.add(values):
                self._dropped.add(name)
                self._columns[name] = None
        self._rows += end - start

    def columns(self) -> Iterator[tuple[str, Column | TextColumn]]:
        """Join the pieces -> (name, column) of those that are whole."""
        for name, found in self._columns.items():
            if name in self._dropped:
                continue
            if found is None:  # nothing but NULL
                found = FewTexts() if name in _TEXTS_OF_EXIF or name == "folder" else _Numbers()
                if self._rows:
                    found.add([None] * self._rows)
            column = found.column()
            if column is not None:
                yield name, column


class _Numbers:
    """A column of numbers that is read piece by piece."""

    def __init__(self) -> None:
        self._values: list[Array] = []
        self._nulls: list[Array] = []

    def add(self, values: list[Any]) -> bool:
        """Add the values of the next rows; False if not all of them are float64, as they would have to be."""
        kinds = set(map(type, values))
        if type(None) in kinds:
            nulls = np.array([value is None for value in values], np.bool_)
            values = [0 if value is None else value for value in values]
        else:
            nulls = np.zeros(len(values), np.bool_)
        if float in kinds and any(isinstance(value, int) and abs(value) > _EXACT for value in values):
            return False
        self._values.append(np.array(values, np.float64 if float in kinds else np.int64))
        self._nulls.append(nulls)
        return True

    def column(self) -> Column | None:
        """Join the pieces; None if some are float64, which does not have all the numbers of the others."""
        pieces = self._values
        if any(piece.dtype.kind == "f" for piece in pieces) and any(
            piece.dtype.kind == "i" and len(piece) and np.abs(piece).max() > _EXACT for piece in pieces
        ):
            return None
        values = np.concatenate(pieces) if pieces else np.empty(0, np.int64)
        nulls = np.concatenate(self._nulls) if pieces else np.empty(0, np.bool_)
        return Column(values, nulls if nulls.any() else None)


def _narrow(values: Array) -> Array:
    """Return whole numbers in as few bytes as hold them all."""
    if values.dtype.kind == "f":
        return values
    least, most = int(values.min(initial=0)), int(values.max(initial=0))
    kind = next(
        kind for kind in ("<i1", "<i2", "<i4", "<i8") if np.iinfo(kind).min <= least and most <= np.iinfo(kind).max
    )
    return values.astype(kind, copy=False)
