"""Messages that tell a decode worker where a picture's bytes are: plain bytes, never pickles."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from clipdex.base.errors import ImageError
from clipdex.base.records import storable

__all__ = ["REWRITTEN", "ReadRequest", "refusal", "require_within", "whole_file"]

REWRITTEN = "the file that contains it was rewritten after it was listed"

# To be read, and the five numbers of a ReadRequest. A refusal has other bytes behind its kind.
_READ = struct.Struct("<cqqqqq")
_REFUSE = b"r"
_UNSET = -(1 << 63)


@dataclass(frozen=True)
class ReadRequest:
    """The place of a picture's bytes: a file, or `length` bytes of it from `offset`, up to its end if -1.

    size, mtime_ns: the values for the picture's row (default: the file's own).
    file_mtime_ns: the mtime that the file must still have, if given: offsets into a shard that was
        rewritten are wrong.
    """

    file: bytes
    offset: int = 0
    length: int = -1
    size: int = _UNSET
    mtime_ns: int = _UNSET
    file_mtime_ns: int = _UNSET

    def encode(self) -> bytes:
        """Encode the request as a message for `parse`."""
        numbers = (self.offset, self.length, self.size, self.mtime_ns, self.file_mtime_ns)
        return (
            _READ.pack(b"f", *(number if number == _UNSET else storable(number) for number in numbers)) + self.file
        )

    @classmethod
    def parse(cls, message: bytes) -> ReadRequest:
        """Decode the request in a message.

        Raises:
            ImageError: the message is a refusal.
        """
        if message.startswith(_REFUSE):
            reason, _, detail = message[1:].decode().partition("\0")
            raise ImageError(detail, reason=reason)
        _, *numbers = _READ.unpack_from(message)
        return cls(message[_READ.size :], *numbers)

    @property
    def is_whole_file(self) -> bool:
        """Whether the picture is a file of its own, not a part of another."""
        return self.offset == 0 and self.length < 0

    def identity(self, info: os.stat_result) -> tuple[int, int]:
        """Return (size, mtime_ns) of the picture, given the file's, as an index stores them."""
        size = info.st_size if self.size == _UNSET else self.size
        return storable(size), storable(info.st_mtime_ns if self.mtime_ns == _UNSET else self.mtime_ns)

    def read(self, file: BinaryIO, info: os.stat_result, limit: int) -> bytes:
        """Read the picture's bytes from the opened file.

        Raises:
            ImageError: there are more than `limit`, some are missing, or the file was rewritten.
        """
        if self.file_mtime_ns not in (_UNSET, storable(info.st_mtime_ns)):
            raise ImageError(REWRITTEN, reason="vanished")
        length = max(0, info.st_size - self.offset) if self.length < 0 else self.length
        require_within(limit, length)
        file.seek(self.offset)
        if self.length < 0:
            return _read_to_end(file, length, limit)
        data = file.read(length)
        if len(data) < length:
            raise ImageError("the file that contains it ends in the middle of it", reason="truncated")
        return data


def require_within(limit: int, size: int) -> None:
    """Raise ImageError if a picture has more bytes than the limit."""
    if size > limit:
        raise ImageError(f"the file has {size:,} bytes, more than the limit of {limit:,}", reason="too_large")


_WHOLE_FILE = ReadRequest(b"").encode()


def whole_file(file: bytes) -> bytes:
    """Encode the request for a file of its own, `ReadRequest(file)`."""
    return _WHOLE_FILE + file


def _read_to_end(file: BinaryIO, length: int, limit: int) -> bytes:
    """Read `length` bytes, or more if the file has grown meanwhile. Takes no more memory than needed."""
    data = file.read(length + 1)
    if len(data) > length:
        data += file.read(limit + 1 - length)
    if len(data) > limit:
        raise ImageError(f"the file has grown beyond the limit of {limit:,} bytes", reason="too_large")
    return data


def refusal(reason: str, detail: str) -> bytes:
    """Encode the message for a picture whose bytes cannot be read: the worker answers with the same reason."""
    return _REFUSE + f"{reason}\0{detail}".encode("utf-8", "backslashreplace")
