"""vectors.int8: the rows as int8 codes with error bounds, which searches scan first. docs/index-format.md.

It only saves time. If it is missing, stale or damaged, the rows themselves are scanned, and the results are the
same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.base.errors import IndexDamaged
from clipdex.base.json_text import parse_plain_json
from clipdex.base.records import Extent
from clipdex.index.manifest import Manifest, json_crc32c
from clipdex.index.side.building import digest, is_of_first
from clipdex.index.side.derived_file import Unusable, damages_of, logged, mapped, padded, usable
from clipdex.index.stored import is_stored_count
from clipdex.search.quantize import BLOCK_ROWS, Basis, CodeBlock

__all__ = [
    "INT8_FILE",
    "Int8File",
    "Int8Header",
    "block_bytes",
    "int8_damages",
    "pack_block",
]

INT8_FILE = "vectors.int8"
FORMAT, FORMAT_VERSION = "clipdex-int8", 1

_HEADER_BYTES = 4096
_MOST_BLOCK_BYTES = 64 << 20
_LEAST_BLOCK_ROWS = 2048


@dataclass(frozen=True)
class Int8Header:
    """The header of a side file for the first `rows` rows of an index, identified by `extents`."""

    fingerprint: str
    embedding_dim: int
    dtype: str
    rows: int
    block_rows: int
    extents: str
    basis_crc32c: int

    @classmethod
    def of(cls, manifest: Manifest, extents: Sequence[Extent], basis: bytes) -> Int8Header:
        """Make the header for all rows of these extents."""
        dim = manifest.embedding_dim
        block_rows = _MOST_BLOCK_BYTES // dim
        block_rows -= block_rows % _LEAST_BLOCK_ROWS
        return cls(
            manifest.fingerprint,
            dim,
            manifest.dtype,
            sum(extent.row_count for extent in extents),
            min(BLOCK_ROWS, max(_LEAST_BLOCK_ROWS, block_rows)),
            digest(extents),
            google_crc32c.value(basis),
        )

    @property
    def basis_bytes(self) -> int:
        """The size of the basis after the header, padded."""
        return padded(8 * self.embedding_dim)

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return -(-self.rows // self.block_rows)

    def rows_of(self, block: int) -> int:
        """Return the number of rows of a block."""
        return min(self.block_rows, self.rows - block * self.block_rows)

    def start_of(self, block: int) -> int:
        """Return the offset of a block in the file."""
        return _HEADER_BYTES + self.basis_bytes + block * block_bytes(self.block_rows, self.embedding_dim)

    @property
    def file_bytes(self) -> int:
        """The length of the file."""
        if self.blocks == 0:
            return self.start_of(0)
        last = self.blocks - 1
        return self.start_of(last) + block_bytes(self.rows_of(last), self.embedding_dim)

    def to_bytes(self) -> bytes:
        """Encode the header as the first bytes of the file."""
        data = {"format": FORMAT, "format_version": FORMAT_VERSION} | self.__dict__
        text = json.dumps(data | {"crc32c": json_crc32c(data)}).encode()
        return text.ljust(_HEADER_BYTES - 1) + b"\n"

    @classmethod
    def from_bytes(cls, raw: bytes) -> Int8Header:
        """Read a header. Raises Unusable."""
        try:
            data = parse_plain_json(raw)
            crc32c = data.pop("crc32c")
            if data.pop("format") != FORMAT or data.pop("format_version") != FORMAT_VERSION:
                raise Unusable("has a format that this clipdex does not know")
            header = cls(**{name: data[name] for name in cls.__dataclass_fields__})
            whole = {"format": FORMAT, "format_version": FORMAT_VERSION} | data
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Unusable("is damaged: its header cannot be read") from exc
        if crc32c != json_crc32c(whole):
            raise Unusable("is damaged: its header is not what was written")
        texts = (header.fingerprint, header.dtype, header.extents)
        numbers = (header.embedding_dim, header.rows, header.block_rows, header.basis_crc32c)
        if not all(type(text) is str for text in texts) or not all(map(is_stored_count, numbers)):
            raise Unusable("is damaged: a field of its header is missing or out of range")
        return header


def block_bytes(rows: int, dim: int) -> int:
    """Return the length of a block in the file."""
    return padded(rows * dim) + padded(12 * rows + 4)


def pack_block(block: CodeBlock) -> list[bytes]:
    """Encode a block for the file: codes, scales, residuals, lengths, CRC-32C."""
    rows, dim = block.code.shape
    codes = block.code.tobytes()
    parts = [b"\0" * (padded(rows * dim) - rows * dim)]
    parts += [np.asarray(v, "<f4").tobytes() for v in (block.scale, block.residual, block.length)]
    tail = b"".join(parts)
    crc32c = google_crc32c.extend(google_crc32c.value(codes), tail)
    tail += int(crc32c).to_bytes(4, "little")
    return [codes, tail.ljust(block_bytes(rows, dim) - rows * dim, b"\0")]


class Int8File:
    """An open side file that matches its index; a `Codes` for the search.

    Each block's checksum is checked when the block is first used.
    """

    def __init__(self, path: Path, header: Int8Header, data: npt.NDArray[np.uint8]) -> None:
        self._path, self.header, self._data = path, header, data
        self.rows, self.block_rows = header.rows, header.block_rows
        first = _HEADER_BYTES
        raw = data[first : first + 8 * header.embedding_dim]
        if google_crc32c.value(raw) != header.basis_crc32c:
            raise Unusable("is damaged: the basis of its codes is not what was written")
        both = raw.view("<f4").astype(np.float32)
        self.basis = Basis(both[: header.embedding_dim], both[header.embedding_dim :])
        self._blocks: list[CodeBlock | None] = [None] * header.blocks
        self._known = [False] * header.blocks
        self._stored: Array = data[header.start_of(0) :]

    @classmethod
    def open(cls, directory: Path, manifest: Manifest, extents: Sequence[Extent]) -> Int8File | None:
        """Open the side file of an index with these extents; None if there is none, or it cannot be used."""
        return usable(directory / INT8_FILE, lambda: cls.require(directory, manifest, extents))

    @classmethod
    def require(cls, directory: Path, manifest: Manifest, extents: Sequence[Extent]) -> Int8File:
        """Open the side file, like `open`, but raise FileNotFoundError or Unusable."""
        path = directory / INT8_FILE
        try:
            header, data = mapped(
                path,
                _HEADER_BYTES,
                Int8Header.from_bytes,
                lambda header: _require_fit(header, manifest, extents),
            )
        except IndexDamaged as exc:
            raise Unusable(f"cannot be used: {exc}") from exc
        return cls(path, header, data)

    @property
    def stored(self) -> Array:
        """The bytes of the blocks."""
        return self._stored

    @cached_property
    def typical(self) -> tuple[float, float]:
        """A typical residual and length, from the first block, whether or not it is damaged."""
        return self._view(0).typical

    def block(self, number: int) -> CodeBlock | None:
        """Return a block, or None if it is damaged."""
        if not self._known[number]:
            try:
                self._blocks[number] = self._read(number)
            except Unusable as exc:
                logged(self._path, exc, "they are")
            self._known[number] = True
        return self._blocks[number]

    def packed(self, number: int) -> npt.NDArray[np.uint8] | None:
        """Return a block's bytes, or None if it is damaged."""
        if self.block(number) is None:
            return None
        start = self.header.start_of(number)
        return self._data[start : start + block_bytes(self.header.rows_of(number), self.header.embedding_dim)]

    def _read(self, number: int) -> CodeBlock:
        rows, dim = self.header.rows_of(number), self.header.embedding_dim
        start = self.header.start_of(number)
        middle = start + padded(rows * dim)
        end = middle + 12 * rows
        written = int.from_bytes(self._data[end : end + 4].tobytes(), "little")
        if google_crc32c.value(self._data[start:end]) != written:
            first = number * self.block_rows
            where = f"the codes of rows {first} to {first + rows - 1}"
            raise Unusable(f"is damaged: {where} are not what was written")
        return self._view(number)

    def _view(self, number: int) -> CodeBlock:
        rows, dim = self.header.rows_of(number), self.header.embedding_dim
        start = self.header.start_of(number)
        middle = start + padded(rows * dim)
        scale, residual, length = self._data[middle : middle + 12 * rows].view("<f4").reshape(3, rows)
        code = self._data[start : start + rows * dim].view(np.int8).reshape(rows, dim)
        return CodeBlock(code, scale, residual, length)


def int8_damages(directory: Path, manifest: Manifest, extents: Sequence[Extent]) -> list[str]:
    """Check the side file, if there is one -> its damage. Raises IndexFault if the system refuses to read it."""

    def checks(file: Int8File) -> list[Callable[[], object]]:
        return [partial(file._read, number) for number in range(file.header.blocks)]

    return damages_of(
        directory / INT8_FILE, lambda: Int8File.require(directory, manifest, extents), checks, "them"
    )


def _require_fit(header: Int8Header, manifest: Manifest, extents: Sequence[Extent]) -> None:
    """Raise Unusable unless the header is for the first of these extents."""
    expected = (manifest.fingerprint, manifest.embedding_dim, manifest.dtype)
    if (header.fingerprint, header.embedding_dim, header.dtype) != expected:
        raise Unusable("belongs to another index")
    if not is_of_first(extents, header.rows, header.extents):
        raise Unusable("belongs to other rows than the index has now")
    if not _LEAST_BLOCK_ROWS <= header.block_rows <= BLOCK_ROWS or header.block_rows % _LEAST_BLOCK_ROWS:
        raise Unusable("is damaged: the length of its blocks is out of range")
