"""vectors.int8: the rows as int8 codes with error bounds, which searches scan first. docs/index-format.md.

It only saves time. If it is missing, stale or damaged, the rows themselves are scanned, and the results are the
same.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.base.errors import IndexDamaged
from clipdex.base.json_text import parse_plain_json
from clipdex.base.records import Extent
from clipdex.index.files import fault, map_file, open_to_read
from clipdex.index.manifest import Manifest, json_crc32c
from clipdex.index.side.building import digest
from clipdex.index.stored import is_stored_count
from clipdex.search.quantize import BLOCK_ROWS, Basis, CodeBlock

__all__ = [
    "INT8_FILE",
    "Int8File",
    "Int8Header",
    "Int8Unusable",
    "Int8Watch",
    "block_bytes",
    "int8_damages",
    "pack_block",
]

INT8_FILE = "vectors.int8"
FORMAT, FORMAT_VERSION = "clipdex-int8", 1

_HEADER_BYTES = 4096
_ALIGNED = 64
_MOST_BLOCK_BYTES = 64 << 20
_LEAST_BLOCK_ROWS = 2048

_log = logging.getLogger("clipdex.index")


class Int8Unusable(Exception):
    """The side file cannot be used; the message says why. Never leaves this package."""


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
        return _padded(8 * self.embedding_dim)

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
        """Read a header. Raises Int8Unusable."""
        try:
            data = parse_plain_json(raw)
            crc32c = data.pop("crc32c")
            if data.pop("format") != FORMAT or data.pop("format_version") != FORMAT_VERSION:
                raise Int8Unusable("has a format that this clipdex does not know")
            header = cls(**{name: data[name] for name in cls.__dataclass_fields__})
            whole = {"format": FORMAT, "format_version": FORMAT_VERSION} | data
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Int8Unusable("is damaged: its header cannot be read") from exc
        if crc32c != json_crc32c(whole):
            raise Int8Unusable("is damaged: its header is not what was written")
        texts = (header.fingerprint, header.dtype, header.extents)
        numbers = (header.embedding_dim, header.rows, header.block_rows, header.basis_crc32c)
        if not all(type(text) is str for text in texts) or not all(map(is_stored_count, numbers)):
            raise Int8Unusable("is damaged: a field of its header is missing or out of range")
        return header


def block_bytes(rows: int, dim: int) -> int:
    """Return the length of a block in the file."""
    return _padded(rows * dim) + _padded(12 * rows + 4)


def pack_block(block: CodeBlock) -> list[bytes]:
    """Encode a block for the file: codes, scales, residuals, lengths, CRC-32C."""
    rows, dim = block.code.shape
    codes = block.code.tobytes()
    parts = [b"\0" * (_padded(rows * dim) - rows * dim)]
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
            raise Int8Unusable("is damaged: the basis of its codes is not what was written")
        both = raw.view("<f4").astype(np.float32)
        self.basis = Basis(both[: header.embedding_dim], both[header.embedding_dim :])
        self._blocks: list[CodeBlock | None] = [None] * header.blocks
        self._known = [False] * header.blocks

    @classmethod
    def open(cls, directory: Path, manifest: Manifest, extents: Sequence[Extent]) -> Int8File | None:
        """Open the side file of an index with these extents; None if there is none, or it cannot be used."""
        try:
            return cls.require(directory, manifest, extents)
        except FileNotFoundError:
            return None
        except Int8Unusable as exc:
            _log.warning("%s %s; it is not used, which affects only the speed", directory / INT8_FILE, exc)
            return None

    @classmethod
    def require(cls, directory: Path, manifest: Manifest, extents: Sequence[Extent]) -> Int8File:
        """Open the side file, like `open`, but raise FileNotFoundError or Int8Unusable."""
        path = directory / INT8_FILE
        try:
            with open_to_read(path) as file:
                header = Int8Header.from_bytes(file.read(_HEADER_BYTES))
                _require_fit(header, manifest, extents)
                size = os.fstat(file.fileno()).st_size
                if size != header.file_bytes:
                    raise Int8Unusable(f"is damaged: it has {size:,} bytes instead of {header.file_bytes:,}")
                return cls(path, header, np.asarray(map_file(file, path, np.uint8)))
        except FileNotFoundError:
            raise
        except IndexDamaged as exc:
            raise Int8Unusable(f"cannot be used: {exc}") from exc
        except OSError as exc:
            raise Int8Unusable(f"cannot be read: {exc.strerror}") from exc

    @property
    def stored(self) -> Array:
        """The bytes of the blocks."""
        return self._data[self.header.start_of(0) :]

    @cached_property
    def typical(self) -> tuple[float, float]:
        """A typical residual and length, from the first block, whether or not it is damaged."""
        return self._view(0).typical

    def block(self, number: int) -> CodeBlock | None:
        """Return a block, or None if it is damaged."""
        if not self._known[number]:
            try:
                self._blocks[number] = self._read(number)
            except Int8Unusable as exc:
                _log.warning("%s %s; they are not used, which affects only the speed", self._path, exc)
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
        middle = start + _padded(rows * dim)
        end = middle + 12 * rows
        written = int.from_bytes(self._data[end : end + 4].tobytes(), "little")
        if google_crc32c.value(self._data[start:end]) != written:
            first = number * self.block_rows
            where = f"the codes of rows {first} to {first + rows - 1}"
            raise Int8Unusable(f"is damaged: {where} are not what was written")
        return self._view(number)

    def _view(self, number: int) -> CodeBlock:
        rows, dim = self.header.rows_of(number), self.header.embedding_dim
        start = self.header.start_of(number)
        middle = start + _padded(rows * dim)
        scale, residual, length = self._data[middle : middle + 12 * rows].view("<f4").reshape(3, rows)
        code = self._data[start : start + rows * dim].view(np.int8).reshape(rows, dim)
        return CodeBlock(code, scale, residual, length)


class Int8Watch:
    """The side file of an index that stays open: opened once it exists, and again after it was replaced."""

    def __init__(self) -> None:
        self._seen: tuple[int, ...] | None = None
        self._file: Int8File | None = None

    def now(self, directory: Path, manifest: Manifest, extents: Callable[[], Sequence[Extent]]) -> Int8File | None:
        """Return the file, if there is one that can be used."""
        try:
            stat = os.lstat(directory / INT8_FILE)
        except OSError:
            self._seen = self._file = None
            return None
        seen = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if seen != self._seen:
            self._file = Int8File.open(directory, manifest, extents())
            self._seen = seen
        return self._file


def int8_damages(directory: Path, manifest: Manifest, extents: Sequence[Extent]) -> list[str]:
    """Check the side file, if there is one -> its damage. Raises IndexFault if the system refuses to read it."""
    try:
        file = Int8File.require(directory, manifest, extents)
    except FileNotFoundError:
        return []
    except Int8Unusable as exc:
        if isinstance(exc.__cause__, OSError):
            refused = fault(directory / INT8_FILE, exc.__cause__)
            if not isinstance(refused, IndexDamaged):
                raise refused from exc
        return [f"{INT8_FILE} {exc}: rebuild it with  clipdex optimize"]
    found = []
    for number in range(file.header.blocks):
        try:
            file._read(number)
        except Int8Unusable as exc:
            found.append(f"{INT8_FILE} {exc}: rebuild them with  clipdex optimize")
    return found


def _require_fit(header: Int8Header, manifest: Manifest, extents: Sequence[Extent]) -> None:
    """Raise Int8Unusable unless the header is for the first of these extents."""
    expected = (manifest.fingerprint, manifest.embedding_dim, manifest.dtype)
    if (header.fingerprint, header.embedding_dim, header.dtype) != expected:
        raise Int8Unusable("belongs to another index")
    rows, some = 0, 0
    while rows < header.rows and some < len(extents):
        rows += extents[some].row_count
        some += 1
    if rows != header.rows or digest(extents[:some]) != header.extents:
        raise Int8Unusable("belongs to other rows than the index has now")
    if not _LEAST_BLOCK_ROWS <= header.block_rows <= BLOCK_ROWS or header.block_rows % _LEAST_BLOCK_ROWS:
        raise Int8Unusable("is damaged: the length of its blocks is out of range")


def _padded(length: int) -> int:
    return -(-length // _ALIGNED) * _ALIGNED
