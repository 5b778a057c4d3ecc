"""Offsets of the members of a tar, found by reading its headers; nothing is unpacked.

`tarfile` parses each block; this module walks from block to block, because an archive may be hostile or truncated:
`TarFile.next` ends silently at a damaged header, trusts the length of a long name or sparse map, and decodes
names. POSIX ustar and pax, GNU and the old format are supported.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from clipdex.base.git_lfs import is_pointer

__all__ = ["BrokenTar", "TarEntry", "walk"]

_BLOCK = 512
_LONGEST_EXTRA = 1 << 20  # bytes of a pax header or a long name

_NO_DATA = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class BrokenTar(Exception):
    """Raised where an archive cannot be read any further; the message says why. What came before is valid."""


@dataclass(frozen=True)
class TarEntry:
    """A member of an archive. refused: why its bytes are not a contiguous span, or empty if they are."""

    name: bytes
    offset: int
    length: int
    refused: str = ""


def walk(file: BinaryIO, size: int) -> Iterator[TarEntry]:
    """Yield the members of an archive of `size` bytes, in their order, without its directories.

    Raises:
        BrokenTar: it is not a tar, is damaged, or is truncated.
    """
    at, extra, ended = 0, _Extra(), False
    while not ended:
        block = _read(file, at, _BLOCK, size)
        if not block.strip(b"\0"):
            if extra.used:
                raise BrokenTar(f"it ends after a long name, at byte {at:,}")
            return
        header = _header(block, at)
        data_at = at + _BLOCK
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX):
            if header.size > _LONGEST_EXTRA:
                raise BrokenTar(f"a long name at byte {at:,} claims to have {header.size:,} bytes")
            extra.take(header.type, _read(file, data_at, header.size, size))
            at = data_at + _padded(header.size)
            continue
        length = header.size if extra.size is None else extra.size
        name = header.name.encode("utf-8", "surrogateescape") if extra.name is None else extra.name
        if header.type == tarfile.GNUTYPE_SPARSE:
            data_at = _behind_sparse_map(file, block, data_at, size)
        stored = 0 if header.type in _NO_DATA else length
        if length < 0 or data_at + stored > size:
            raise BrokenTar(f"it ends inside a member, at byte {size:,}")
        if header.type != tarfile.DIRTYPE:
            yield TarEntry(name.removeprefix(b"./"), data_at, stored, extra.refused or _refused(header))
        at, extra = data_at + _padded(stored), _Extra()


_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)


class _Extra:
    """The data on a member from the headers before its own."""

    def __init__(self) -> None:
        self.used = False
        self.name: bytes | None = None
        self.size: int | None = None
        self.refused = ""

    def take(self, kind: bytes, data: bytes) -> None:
        if kind == tarfile.XGLTYPE:
            return  # for the whole archive: a comment, times, never a name
        self.used = True
        if kind == tarfile.GNUTYPE_LONGNAME:
            self.name = data.split(b"\0", 1)[0]
        elif kind in _PAX:
            for keyword, value in _pax_records(data):
                self._record(keyword, value)

    def _record(self, keyword: bytes, value: bytes) -> None:
        if keyword == b"path":
            self.name = value.rstrip(b"/")
        elif keyword == b"GNU.sparse.name":
            self.name = value
        elif keyword == b"size":
            if not value.isdigit() or len(value) > 19:
                raise BrokenTar("a pax header gives a size that is not a number")
            self.size = int(value)
        if keyword.startswith(b"GNU.sparse."):
            self.refused = _SPARSE


_SPARSE = "is a sparse member, whose bytes are not contiguous"


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (keyword, value) pairs of `LENGTH KEYWORD=VALUE\\n` records; the length includes itself."""
    at = 0
    while at < len(data) and data[at : at + 1] != b"\0":
        digits, blank, _ = data[at : at + 20].partition(b" ")
        end = at + int(digits) if digits.isdigit() else 0
        keyword, equals, value = data[at + len(digits) + 1 : end].partition(b"=")
        if not blank or not equals or end > len(data) or not value.endswith(b"\n"):
            raise BrokenTar("a pax header is damaged")
        yield keyword, value[:-1]
        at = end


def _header(block: bytes, at: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as exc:
        if at > 0:
            raise BrokenTar(f"the header at byte {at:,} is damaged ({exc})") from exc
        for magic, name in _PACKED.items():
            if block.startswith(magic):
                raise BrokenTar(f"it is compressed with {name}; decompress it first") from exc
        raise BrokenTar(_no_tar(block)) from exc
    if header.size < 0:
        raise BrokenTar(f"the header at byte {at:,} gives a negative size")
    return header


def _no_tar(first: bytes) -> str:
    """What a file is that begins so."""
    if is_pointer(first):
        return "it is a git-lfs pointer, not the archive: run git lfs pull"
    return "it is not a tar archive" if first else "it is empty"


def _read(file: BinaryIO, at: int, length: int, size: int) -> bytes:
    file.seek(at)
    data = file.read(length)
    if len(data) == length:
        return data
    if at == 0:
        raise BrokenTar(_no_tar(data))
    if at == size:
        raise BrokenTar("it has no end mark: it was truncated, or is being written")
    raise BrokenTar(f"it ends inside a header, at byte {size:,}")


def _behind_sparse_map(file: BinaryIO, block: bytes, data_at: int, size: int) -> int:
    """Return where the data of an old GNU sparse member begins: its map may continue in more blocks."""
    more = block[482]
    while more:
        more = _read(file, data_at, _BLOCK, size)[504]
        data_at += _BLOCK
    return data_at


def _refused(header: tarfile.TarInfo) -> str:
    if header.type == tarfile.GNUTYPE_SPARSE:
        return _SPARSE
    if header.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        return "is a link to another member, not a file"
    if header.type in _NO_DATA:
        return "is a FIFO or device, not a file"
    return ""


def _padded(length: int) -> int:
    return (length + _BLOCK - 1) // _BLOCK * _BLOCK
