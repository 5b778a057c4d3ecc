"""What each row of an index is a picture of, as a table: Parquet or CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from clipdex.apps.dump.rows import chosen_rows
from clipdex.base.arrays import Array
from clipdex.base.errors import IndexDamaged, InvalidArgument
from clipdex.base.extras import needs
from clipdex.base.json_text import valid
from clipdex.base.replacing import replacing
from clipdex.index.reader import Index

__all__ = ["COLUMNS", "dump_table"]

COLUMNS = ("row", "path", "size", "mtime_ns", "width", "height", "metadata")

_AT_ONCE = 10_000


class _Writer(Protocol):
    def __call__(self, lines: list[dict[str, Any]]) -> None: ...


def dump_table(index: Index, path: Path, rows: Array | None = None) -> int:
    """Write a table of the pictures, a line a row, in the order of the rows -> how many.

    A .csv has paths as the bytes they are; a .parquet has a column of bytes, beside one of text that shows bytes
    that are not UTF-8 as \\xNN. metadata is JSON.
    rows: which; all live ones if not given.

    Raises:
        InvalidArgument: the file's name ends in neither .parquet nor .csv.
        MissingExtra: it is Parquet, and pyarrow is not installed or cannot be imported.
        ClipdexError: the file cannot be written.
    """
    kinds = {".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in kinds:
        raise InvalidArgument(f"{path}: a table's name ends in .parquet or .csv")
    chosen = chosen_rows(index, rows)
    with kinds[path.suffix.lower()](path) as write:
        for start in range(0, len(chosen), _AT_ONCE):
            some = chosen[start : start + _AT_ONCE].tolist()
            pictures = index.pictures(some)
            if len(pictures) < len(some):
                row = next(row for row in some if row not in pictures)
                raise IndexDamaged(
                    f"{index.directory}: row {row} has no record of its picture; see  clipdex verify"
                )
            write(
                [
                    {
                        "row": row,
                        "path": pictures[row].path,
                        "size": pictures[row].size,
                        "mtime_ns": pictures[row].mtime_ns,
                        "width": pictures[row].width,
                        "height": pictures[row].height,
                        "metadata": _valid(pictures[row].metadata),
                    }
                    for row in some
                ]
            )
    return len(chosen)


def _valid(metadata: str | None) -> str | None:
    return None if metadata is None else valid(metadata)


@contextmanager
def _csv(path: Path) -> Iterator[_Writer]:
    with replacing(path, "the table") as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer = csv.writer(text, lineterminator="\n")

        def write(lines: list[dict[str, Any]]) -> None:
            writer.writerows(
                [os.fsdecode(line[name]) if name == "path" else line[name] for name in COLUMNS] for line in lines
            )

        try:
            writer.writerow(COLUMNS)
            yield write
        finally:
            text.detach()  # writes what it still holds; who opened the file closes it


@contextmanager
def _parquet(path: Path) -> Iterator[_Writer]:
    with needs("pyarrow", "pyarrow", "tables", "writing Parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    kinds = {name: pa.string() if name in ("path", "metadata") else pa.int64() for name in COLUMNS}
    schema = pa.schema([*kinds.items(), ("path_bytes", pa.binary())])
    with replacing(path, "the table") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:

        def write(lines: list[dict[str, Any]]) -> None:
            shown = [
                line | {"path": line["path"].decode("utf-8", "backslashreplace"), "path_bytes": line["path"]}
                for line in lines
            ]
            writer.write_batch(pa.RecordBatch.from_pylist(shown, schema=schema))

        yield write
