"""A Parquet file with a column of pictures or of paths; its other columns are kept with each picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from clipdex.base.errors import ImageError, SourceError
from clipdex.base.extras import needs
from clipdex.base.git_lfs import pointer_words
from clipdex.base.limits import Limits
from clipdex.base.object_paths import is_object
from clipdex.base.read_request import ReadRequest, refusal
from clipdex.base.records import Failure
from clipdex.base.spool import Spool
from clipdex.sources.locations import LONGEST_PATH, Elsewhere, located, member_path
from clipdex.sources.metadata import metadata_json
from clipdex.sources.object_member import object_bytes
from clipdex.sources.object_store import FETCHES
from clipdex.sources.scan import FoundFile
from clipdex.sources.storage import (
    FileState,
    identity_of,
    is_away,
    is_gone_from,
    is_pointer_at,
    open_file,
    state_of,
)
from clipdex.sources.table import (
    BrokenTable,
    RowLedger,
    choose_column,
    named_files,
    names_objects,
    row_id,
    table_state,
)

__all__ = ["ParquetTable", "parquet_cell"]

with needs("pyarrow", "pyarrow", "tables", "reading Parquet"):
    import pyarrow as pa
    import pyarrow.parquet as pq

_BATCH_ROWS = 1024
_BATCH_BYTES = 32 << 20


class ParquetTable:
    """A source of rows that hold pictures, known as `TABLE!/COLUMN/ROW`, or name files, known by their own paths.

    A column of binary, or of structs with `bytes` (and `path`), as in Hugging Face datasets, holds pictures; one
    of strings holds paths, which start at the table's folder. Only a few rows are read at a time, and pictures of
    rows that the index has already are not read at all.
    """

    def __init__(self, table: str | Path, column: str | None = None, *, fetches: int = FETCHES) -> None:
        """table: a path, or the URL of an object. column: if not given, the first of `table.COLUMNS` that exists.
        fetches: objects of a bucket that the column names to read at a time.

        Raises:
            SourceError: the table cannot be read, has no such column, or the column is of another type.
        """
        self._table = identity_of(table)
        self._fetches = fetches
        try:
            with _opened(self._table, None) as file:
                schema = file.schema_arrow
        except (pa.ArrowException, OSError) as exc:
            if is_pointer_at(self._table):
                raise SourceError(pointer_words(table, "the table")) from exc
            raise SourceError(f"{table}: cannot be read as Parquet: {_words(exc)}") from exc
        self.column = choose_column(table, schema.names, column)
        if schema.names.count(self.column) > 1:
            raise SourceError(f"{table}: has several columns {self.column!r}; rename all but one")
        kind = schema.field(self.column).type
        self.names_files = _is_text(kind)
        if _is_list(kind):
            raise SourceError(
                f"{table}: the column {self.column!r} holds several values per row ({kind}); expected one "
                "picture or path per row: write a table with a row for each, as pandas' explode does"
            )
        if not (self.names_files or _is_binary(kind) or _is_struct_of_bytes(kind)):
            raise SourceError(
                f"{table}: the column {self.column!r} is of type {kind}; expected binary, structs with a field "
                "`bytes`, or strings, in any of their kinds"
            )
        self._ledger = RowLedger(self._table)

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the files in the order of the rows."""
        return self._named_files(on_failure) if self.names_files else self._pictures()

    def size(self) -> int | None:
        """Return the number of rows; None of a table of paths, in which one may stand twice."""
        if self.names_files:
            return None
        try:
            with _opened(self._table, None) as file:
                return int(file.metadata.num_rows)
        except (pa.ArrowException, OSError):
            return None  # the pass reports it

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return rows that the table no longer has, and its lines in the ledger that are outdated."""
        if self.names_files:
            return self._ledger.outdated(paths)
        prefix = member_path(self._table, row_id(self.column, 0)[:-1])
        ours = [path for path in paths if path == self._table or path.startswith(prefix)]
        if not ours:
            return []
        if is_gone_from(self._table):
            # If the folder is gone too, a disk may not be mounted.
            return [] if is_away(self._table) else [path for path in ours if path != self._table]
        try:
            with _opened(self._table, None) as file:
                count = file.metadata.num_rows
        except (pa.ArrowException, OSError):
            return []
        return [path for path in ours if path == self._table or not _is_row(path[len(prefix) :], count)]

    def nothing_found(self) -> SourceError:
        """Return the error, which names the table and the column."""
        return SourceError(f"{os.fsdecode(self._table)}: the column {self.column!r} has no rows")

    def _pictures(self) -> Iterator[FoundFile]:
        state = table_state(self._table)
        try:
            with _opened(self._table, state) as file:
                counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        except (pa.ArrowException, OSError) as exc:
            raise SourceError(f"{os.fsdecode(self._table)}: cannot be read any more: {_words(exc)}") from exc
        row = 0
        for group, count in enumerate(counts):
            cells = _Cells(self._table, state, group, count, self.column)
            for index in range(count):
                path = member_path(self._table, row_id(self.column, row))
                member = _Cell(cells, index, state)
                yield FoundFile(path, state.size, state.mtime_ns, member=member, ctime_ns=state.ctime_ns)
                row += 1

    def _named_files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        return named_files(self._table, self.column, self._rows(), self._ledger, on_failure, self._fetches)

    def is_costly(self) -> bool:
        """Return whether a pass asks a bucket for each file."""
        if not self.names_files:
            return False
        with closing(self._rows()) as rows:
            return names_objects(self._table, rows)

    def _rows(self) -> Generator[tuple[str, dict[str, object]], None, None]:
        try:
            with _opened(self._table, None) as file:
                for record in _records(file, None, _leaves(file.schema_arrow, self.column)):
                    yield record.pop(self.column) or "", record
        except (pa.ArrowException, OSError) as exc:
            raise BrokenTable(_words(exc)) from exc


def parquet_cell(table: bytes, column: str, row: int) -> bytes | None:
    """Read the picture in a row; None if there is none.

    Raises:
        OSError: the table cannot be read.
    """
    try:
        state = state_of(table)
        with _opened(table, state) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if row < count:
                    value, _ = _Cells(table, state, group, count, column).take(row)
                    return value if isinstance(value, bytes) else None
                row -= count
    except (pa.ArrowException, BrokenTable) as exc:
        raise OSError(_words(exc)) from exc
    return None


class _Cell:
    """One row's picture, read only when a worker is to decode it."""

    def __init__(self, cells: _Cells, index: int, state: FileState) -> None:
        self._cells = cells
        self._index = index
        self._state = state
        self._message: bytes | None = None
        self._said = metadata_json({})
        self._spool: Spool | None = None

    def request(self) -> bytes:
        # Kept: when a worker dies, its queued files are requested again.
        if self._message is None:
            try:
                self._message = self._load()
            except (BrokenTable, OSError, MemoryError) as exc:
                self._message = refusal("broken_container", f"the table cannot be read here: {_words(exc)}")
        return self._message

    def metadata(self) -> str:
        return self._said

    def _load(self) -> bytes:
        value, others = self._cells.take(self._index)
        self._said = metadata_json(others)
        if value is None:
            return refusal("empty", "the row has no picture")
        identity = (self._state.size, self._state.mtime_ns)
        if isinstance(value, str):  # a struct without bytes: the file is beside the table
            path = located(os.fsencode(value), os.path.dirname(self._cells.table))
            if isinstance(path, Elsewhere):
                return refusal("not_a_path", f"{value[:LONGEST_PATH]} {path.why}")
            if is_object(path):
                return self._object(path, identity)
            return ReadRequest(path, 0, -1, *identity).encode()
        self._spool = Spool(value)
        return ReadRequest(self._spool.path, 0, len(value), *identity).encode()

    def _object(self, path: bytes, identity: tuple[int, int]) -> bytes:
        try:
            data = object_bytes(os.fsdecode(path), Limits().max_file_bytes)
        except ImageError as exc:
            return refusal(exc.reason, str(exc))
        if data is None:
            return refusal("vanished", f"{os.fsdecode(path)}: there is no such object")
        self._spool = Spool(data)
        return ReadRequest(self._spool.path, 0, len(data), *identity).encode()


class _Cells:
    """The rows of a row group, read forwards. Once a row fails, neither it nor later ones are tried again."""

    def __init__(self, table: bytes, state: FileState, group: int, count: int, column: str) -> None:
        self.table = table
        self._state = state
        self._group = group
        self._count = count
        self._column = column
        self._next = 0
        self._records: Iterator[dict[str, Any]] = iter(())
        self._sound = count  # rows that may be readable
        self._damage = ""

    def take(self, index: int) -> tuple[bytes | str | None, dict[str, Any]]:
        """Read a row -> its picture, or the path of it, or None; and its other columns.

        Raises:
            BrokenTable: the row cannot be read.
        """
        if index < self._sound:
            try:
                return self._split(self._record(index))
            except (pa.ArrowException, OSError, MemoryError, LookupError, StopIteration, RecursionError) as exc:
                # The text, not the error, which would keep the reader's frames, and its file open.
                self._damage = _words(exc) if str(exc) else "it has fewer rows than it says"
                self._sound, self._next, self._records = self._next, 0, iter(())
        raise BrokenTable(self._damage)

    def _record(self, index: int) -> dict[str, Any]:
        if index < self._next or self._next == 0:
            self._records, self._next = self._read(), 0
        while True:
            record = next(self._records)
            self._next += 1
            if self._next > index:
                return record

    def _split(self, record: dict[str, Any]) -> tuple[bytes | str | None, dict[str, Any]]:
        cell = record[self._column]
        others = {name: value for name, value in record.items() if name != self._column}
        if not isinstance(cell, dict):
            return cell, others
        if cell.get("path"):
            others[self._column] = {"path": cell["path"]}
        return cell["bytes"] or cell.get("path") or cell["bytes"], others

    def _read(self) -> Iterator[dict[str, Any]]:
        return _group_records(self.table, self._state, self._group, self._count, self._column)


def _group_records(
    table: bytes, state: FileState, group: int, count: int, column: str
) -> Iterator[dict[str, Any]]:
    """Yield a row group's rows, reading about 32 MiB at a time."""
    # Not a method of _Cells: a cycle through a generator would keep its batch and its file open until gc runs.
    with _opened(table, state) as file:
        stored = file.metadata.row_group(group).total_byte_size
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * count // max(1, stored)))
        yield from _records(file, [group], _leaves(file.schema_arrow, column), rows)


def _opened(table: bytes, state: FileState | None) -> pq.ParquetFile:
    """Open a table; an object, in this state only."""
    where = open_file(table, state) if is_object(table) else os.fsdecode(table)
    # Buffered, so that a column's pages are read as they are needed and not a whole row group at once.
    return pq.ParquetFile(where, buffer_size=1 << 20, pre_buffer=False)


def _records(
    file: pq.ParquetFile, groups: list[int] | None, leaves: list[str], rows: int = _BATCH_ROWS
) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(rows, row_groups=groups, columns=leaves, use_threads=False):
        for index in range(batch.num_rows):
            yield {
                name: _value(column[index]) for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }


def _value(cell: pa.Scalar) -> Any:
    """Return a cell as a Python value; as text, or else None, if Python has no such value."""
    try:
        return cell.as_py()
    except (ValueError, OverflowError):
        pass  # text that is not UTF-8, nanoseconds, a date after the year 9999
    if isinstance(cell, pa.StructScalar):
        return {field.name: _value(cell[at]) for at, field in enumerate(cell.type)}
    if pa.types.is_dictionary(cell.type):
        cell = cell.value
    if _is_text(cell.type):
        return os.fsdecode(cell.as_buffer().to_pybytes())  # a path's bytes, as a file system has them
    if not (pa.types.is_timestamp(cell.type) or pa.types.is_date(cell.type)):
        return None
    with suppress(pa.ArrowException, ValueError):
        text = str(cell.cast(pa.string()).as_py())
        return None if text.startswith("<") else text  # <value out of range: …>
    return None


def _leaves(schema: pa.Schema, column: str) -> list[str]:
    """Return the columns to read: the one with the pictures, and those of the others that are not binary."""
    wanted = []
    for field in schema:
        if _is_struct_of_bytes(field.type):
            names = [inner.name for inner in field.type]
            keep = [name for name in names if name == "path" or (name == "bytes" and field.name == column)]
            wanted += [f"{field.name}.{name}" for name in keep]
        elif field.name == column or not _is_binary(field.type):
            wanted.append(field.name)
    return wanted


def _is_binary(kind: pa.DataType) -> bool:
    kind, types = _of_values(kind), pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_binary_view(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    kind = _of_values(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
        or types.is_map(kind)
    )


def _of_values(kind: pa.DataType) -> pa.DataType:
    """Return the value type of a dictionary type (pandas' categories); another type unchanged."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_struct_of_bytes(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    at = kind.get_field_index("bytes")
    return at >= 0 and _is_binary(kind.field(at).type)


def _is_row(number: bytes, count: int) -> bool:
    return number.isdigit() and int(number) < count


def _words(error: BaseException) -> str:
    with suppress(IndexError):
        return str(error).splitlines()[0]
    return type(error).__name__
