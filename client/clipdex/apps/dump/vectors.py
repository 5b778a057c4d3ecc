"""The vectors of an index as NumPy's and FAISS's files, written from front to back in bounded memory."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from clipdex.apps.dump.rows import blocks, chosen_rows
from clipdex.base.arrays import Array
from clipdex.base.replacing import replacing
from clipdex.index.reader import Index
from clipdex.index.where import Rows

__all__ = ["dump_faiss", "dump_npy", "write_rows"]


def dump_npy(index: Index, path: Path, rows: Array | None = None) -> int:
    """Write an .npy file, (n, D) of the index's dtype, for `np.load(path, mmap_mode="r")` -> n.

    rows: which; all live ones if not given.

    Raises:
        ClipdexError: the file cannot be written.
    """
    chosen = chosen_rows(index, rows)
    header = {
        "descr": index.manifest.numpy_dtype.str,
        "fortran_order": False,
        "shape": (len(chosen), index.manifest.embedding_dim),
    }
    with replacing(path, "the .npy file") as file:
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        write_rows(file, index, chosen, index.manifest.dtype)
    return len(chosen)


def dump_faiss(index: Index, path: Path, rows: Array | None = None) -> int:
    """Write a `faiss.IndexFlatIP` for `faiss.read_index(path)`, float32, without needing faiss -> how many rows.

    Its ids are positions: 0 for the first row written.
    rows: which; all live ones if not given.

    Raises:
        ClipdexError: the file cannot be written.
    """
    chosen = chosen_rows(index, rows)
    with replacing(path, "the FAISS index") as file:
        file.write(_faiss_header(len(chosen), index.manifest.embedding_dim))
        write_rows(file, index, chosen, "float32")
    return len(chosen)


def _faiss_header(count: int, dim: int) -> bytes:
    """What comes before the vectors in a flat index of inner products, as faiss.write_index writes it since 2017.

    "IxFI"; D int32; rows int64; two numbers that nobody reads; trained, one byte; the metric int32, 0 for inner
    products; how many float32 follow, uint64. All little-endian.
    """
    unread = 1 << 20
    return b"IxFI" + struct.pack("<iqqq?iQ", dim, count, unread, unread, True, 0, count * dim)


def write_rows(file: BinaryIO, index: Index, rows: Rows, dtype: str) -> None:
    """The rows' numbers, one after the other, little-endian."""
    for block in blocks(index, rows):
        file.write(np.ascontiguousarray(block, dtype=np.dtype(dtype).newbyteorder("<")).data)
