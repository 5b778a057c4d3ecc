"""Writing vectors.int8, built under another name and renamed, then rows.columns; undamaged blocks are copied."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument
from clipdex.index.column_build import build_columns, merge_log
from clipdex.index.files import write_at
from clipdex.index.part_plan import is_parted, whole_parts
from clipdex.index.reader import Index
from clipdex.index.side.building import building, install
from clipdex.index.side.int8_file import INT8_FILE, Int8File, Int8Header, pack_block
from clipdex.search.cosines import not_unit
from clipdex.search.quantize import WIDEST, Basis, CodeBlock, basis_of, quantize
from clipdex.search.readahead import Readahead
from clipdex.search.spans import Span, cores, spans_of, work_through

__all__ = ["Optimized", "optimize_index"]


_PIECE_ROWS = 2048

_ANYWHERE = 1 << 62


@dataclass(frozen=True)
class Optimized:
    """The result of optimizing. rows: with codes in all; coded: newly coded; file_bytes: size of the codes' file.

    column_bytes: size of the file of columns.
    """

    rows: int
    coded: int
    file_bytes: int
    column_bytes: int = 0


def optimize_index(directory: Path, progress: Callable[[int, int], None] | None = None) -> Optimized:
    """Give every committed row its int8 code, so that searches read at most half of float16's bytes.

    And write numbers and texts of the rows as columns, so that filters need not read SQLite.

    Existing codes are kept, unless the index has more than doubled since: then all rows are coded again, since
    the new ones may be of another kind. Readers and a writer may continue meanwhile. Rows committed later are
    searched without codes until this is called again. An index of parts is optimized part by part.

    Args:
        progress: called with the number of rows processed so far and of all rows.

    Raises:
        IndexNotFound, IndexFormatError, IndexDamaged: it is not an index, or cannot be read.
        IndexLocked: another process is optimizing it, or it was compacted meanwhile.
        IndexWriteError: the disk is full or failed; the index is unchanged.
        InvalidArgument: the vectors are wider than int8 sums allow (131,072 numbers).
    """
    if is_parted(directory):
        done = [optimize_index(part, progress) for part in whole_parts(directory)]
        return Optimized(*(sum(getattr(each, field.name) for each in done) for field in fields(Optimized)))
    merge_log(directory)
    # An Index, since a compaction may put other files at the path while they are opened one by one.
    busy = f"{directory} is being optimized by another process; wait for it, or stop it"
    overtaken = f"{directory} has just been optimized by another process; try again"
    with Index.open(directory) as index, building(directory, INT8_FILE, busy=busy, overtaken=overtaken) as fd:
        index.refresh()  # a compaction may have come before the new file was created, which is in the new index
        manifest, vectors = index.manifest, index.vectors
        if manifest.embedding_dim > WIDEST:
            raise InvalidArgument(
                f"{directory} has vectors of {manifest.embedding_dim} numbers; "
                f"int8 codes can have at most {WIDEST}"
            )
        rows = len(vectors)
        extents = [extent for extent in index.extents() if extent.first_row < rows]
        old = Int8File.open(directory, manifest, extents)
        if old is not None and 2 * old.rows < rows:
            old = None
        basis = basis_of(vectors) if old is None else old.basis
        stored_basis = _basis_bytes(basis)
        header = Int8Header.of(manifest, extents, stored_basis)
        coded = _write_blocks(fd, header, basis, vectors, old, progress)
        if coded or old is None or old.rows != rows:
            write_at(fd, stored_basis.ljust(header.basis_bytes, b"\0"), 4096)
            write_at(fd, header.to_bytes(), 0)
            os.ftruncate(fd, header.file_bytes)
            install(fd, directory, INT8_FILE, "optimize it again")
    return Optimized(rows, coded, header.file_bytes, build_columns(directory))


def _write_blocks(
    fd: int,
    header: Int8Header,
    basis: Basis,
    vectors: Array,
    old: Int8File | None,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Write all blocks, unless the old file already has all of them -> how many rows were coded."""
    kept = [_kept(old, header, number) for number in range(header.blocks)]
    if all(kept) and old is not None and old.rows == header.rows:
        return 0
    coded = 0
    with Readahead(vectors) as ahead:
        for number in range(header.blocks):
            first, count = number * header.block_rows, header.rows_of(number)
            position = header.start_of(number)
            packed = old.packed(number) if kept[number] and old is not None else None
            if packed is not None:
                write_at(fd, packed.data, position)
            else:
                ahead.reading(first * vectors.itemsize * vectors.shape[1])
                for part in pack_block(_coded(vectors[first : first + count], basis)):
                    write_at(fd, part, position)
                    position += len(part)
                coded += count
            if progress is not None:
                progress(first + count, header.rows)
    return coded


def _kept(old: Int8File | None, header: Int8Header, number: int) -> bool:
    """Return whether the old file has exactly this block, undamaged."""
    if old is None or old.block_rows != header.block_rows or number >= old.header.blocks:
        return False
    return old.header.rows_of(number) == header.rows_of(number) and old.block(number) is not None


def _coded(vectors: Array, basis: Basis) -> CodeBlock:
    """Code a block's rows on all cores."""
    block = CodeBlock(np.empty(vectors.shape, np.int8), *(np.empty(len(vectors), np.float32) for _ in range(3)))

    def code(span: Span) -> None:
        part = slice(span.first, span.end)
        some = quantize(vectors[part], basis)
        block.code[part], block.scale[part] = some.code, some.scale
        block.residual[part], block.length[part] = some.residual, some.length
        # With a code, a row that is too short would rank below all others, unnoticed.
        block.uncode(span.first + not_unit(vectors[part]))

    work_through(spans_of(0, len(vectors), _PIECE_ROWS, _ANYWHERE), code, cores())
    return block


def _basis_bytes(basis: Basis) -> bytes:
    return np.concatenate((basis.center, basis.spread)).astype("<f4").tobytes()
