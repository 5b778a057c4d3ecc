"""Export of an index to other programs' formats. Row i of the vectors is line i of the table; no tombstones."""

from __future__ import annotations

import csv
import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument
from clipdex.base.extras import needs
from clipdex.base.item_paths import path_text
from clipdex.base.json_text import valid
from clipdex.base.records import Picture
from clipdex.base.replacing import replacing
from clipdex.index.hits import no_record
from clipdex.index.reader import Index
from clipdex.index.where import Rows

__all__ = ["COLUMNS", "blocks", "chosen_rows", "dump_faiss", "dump_npy", "dump_table", "recorded", "write_rows"]

_AT_ONCE_BYTES = 16 << 20


def chosen_rows(index: Index, rows: Array | None) -> Rows:
    """Return the rows to write, or all live ones if None is given: int64, ascending.

    Raises:
        InvalidArgument: a row does not exist, or is dead.
    """
    live: Rows = np.delete(np.arange(len(index.vectors), dtype=np.int64), index.tombstones)
    if rows is None:
        return live
    asked: Rows = np.unique(np.asarray(rows, np.int64))
    if not np.isin(asked, live, assume_unique=True).all():
        raise InvalidArgument(f"{index.directory}: a row to write does not exist, or its picture is gone")
    return asked


def blocks(index: Index, rows: Rows) -> Iterator[Array]:
    """Yield the rows' vectors in blocks, (n, D) of the index's dtype."""
    step = max(1, _AT_ONCE_BYTES // max(1, index.manifest.row_bytes))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        index.require_sound(some)
        yield index.vectors[some]


COLUMNS = ("row", "path", "size", "mtime_ns", "width", "height", "metadata", "exif")

_AT_ONCE = 10_000


class _Writer(Protocol):
    def __call__(self, lines: list[dict[str, Any]]) -> None: ...


def dump_table(index: Index, path: PathLike, rows: Array | None = None) -> int:
    """Write a table of the pictures, one line per row, in the order of the rows -> their number.

    A .csv has the raw bytes of the paths; a .parquet has them in a column of bytes, beside one of text that shows
    bytes that are not UTF-8 as \\xNN. metadata and exif (`clipdex.Exif`) are JSON.
    rows: the rows to write; all live ones if not given.

    Raises:
        InvalidArgument: the file's name ends in neither .parquet nor .csv.
        MissingExtra: it is Parquet, and pyarrow is not installed or cannot be imported.
        ClipdexError: the file cannot be written.
    """
    path = as_path(path, "the table's file")
    kinds = {".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in kinds:
        raise InvalidArgument(f"{path}: the name of a table must end in .parquet or .csv")
    chosen = chosen_rows(index, rows)
    with kinds[path.suffix.lower()](path) as write:
        for some in recorded(index, chosen):
            write(
                [
                    {
                        "row": row,
                        "path": picture.path,
                        "size": picture.size,
                        "mtime_ns": picture.mtime_ns,
                        "width": picture.width,
                        "height": picture.height,
                        "metadata": _valid(picture.metadata),
                        "exif": _exif_json(picture),
                    }
                    for row, picture in some
                ]
            )
    return len(chosen)


def recorded(index: Index, rows: Rows) -> Iterator[list[tuple[int, Picture]]]:
    """Yield the rows with their pictures' records, some at a time, in the order given.

    Raises:
        IndexDamaged: a row has no record, or one that cannot be read.
    """
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE].tolist()
        pictures = index.pictures(some)
        if len(pictures) < len(some):
            raise no_record(index.directory, next(row for row in some if row not in pictures))
        yield [(row, pictures[row]) for row in some]


def _valid(metadata: str | None) -> str | None:
    return None if metadata is None else valid(metadata)


def _exif_json(picture: Picture) -> str | None:
    return None if picture.exif is None else picture.exif.as_json()


@contextmanager
def _csv(path: Path) -> Iterator[_Writer]:
    with replacing(path, "the table") as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer = csv.writer(text, lineterminator="\n")

        def write(lines: list[dict[str, Any]]) -> None:
            writer.writerows(
                [path_text(line[name]) if name == "path" else line[name] for name in COLUMNS] for line in lines
            )

        try:
            writer.writerow(COLUMNS)
            yield write
        finally:
            text.detach()  # flushes its buffer; the caller closes the file


@contextmanager
def _parquet(path: Path) -> Iterator[_Writer]:
    with needs("pyarrow", "pyarrow", "tables", "writing Parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    kinds = {name: pa.string() if name in ("path", "metadata", "exif") else pa.int64() for name in COLUMNS}
    schema = pa.schema([*kinds.items(), ("path_bytes", pa.binary())])
    with replacing(path, "the table") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:

        def write(lines: list[dict[str, Any]]) -> None:
            shown = [
                line
                | {
                    "path": os.fsencode(path_text(line["path"])).decode("utf-8", "backslashreplace"),
                    "path_bytes": line["path"],
                }
                for line in lines
            ]
            writer.write_batch(pa.RecordBatch.from_pylist(shown, schema=schema))

        yield write


def dump_npy(index: Index, path: PathLike, rows: Array | None = None) -> int:
    """Write an .npy file, (n, D) of the index's dtype, for `np.load(path, mmap_mode="r")` -> n.

    rows: the rows to write; all live ones if not given.

    Raises:
        ClipdexError: the file cannot be written.
    """
    chosen = chosen_rows(index, rows)
    header = {
        "descr": index.manifest.numpy_dtype.str,
        "fortran_order": False,
        "shape": (len(chosen), index.manifest.embedding_dim),
    }
    with replacing(as_path(path, "the .npy file"), "the .npy file") as file:
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        write_rows(file, index, chosen, index.manifest.dtype)
    return len(chosen)


def dump_faiss(index: Index, path: PathLike, rows: Array | None = None) -> int:
    """Write a `faiss.IndexFlatIP` for `faiss.read_index(path)`, float32, without needing faiss -> number of rows.

    Its ids are positions: 0 for the first row written.
    rows: the rows to write; all live ones if not given.

    Raises:
        ClipdexError: the file cannot be written.
    """
    chosen = chosen_rows(index, rows)
    with replacing(as_path(path, "the FAISS index"), "the FAISS index") as file:
        file.write(_faiss_header(len(chosen), index.manifest.embedding_dim))
        write_rows(file, index, chosen, "float32")
    return len(chosen)


def _faiss_header(count: int, dim: int) -> bytes:
    """Return the header of a flat index of inner products, as faiss.write_index has written it since 2017.

    "IxFI"; D int32; rows int64; two unused int64; trained, one byte; the metric int32, 0 for inner products;
    the number of float32 that follow, uint64. All little-endian.
    """
    unread = 1 << 20
    return b"IxFI" + struct.pack("<iqqq?iQ", dim, count, unread, unread, True, 0, count * dim)


def write_rows(file: BinaryIO, index: Index, rows: Rows, dtype: str) -> None:
    """Write the rows' vectors one after the other, little-endian."""
    for block in blocks(index, rows):
        file.write(np.ascontiguousarray(block, dtype=np.dtype(dtype).newbyteorder("<")).data)
