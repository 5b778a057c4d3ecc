"""Pictures given as open files: files opened in binary mode, `io.BytesIO`, uploads of a web framework."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, TypeGuard

from clipdex.base.errors import ImageError, InvalidArgument

__all__ = ["is_open_file", "name_of", "read_open"]


def is_open_file(source: object) -> TypeGuard[BinaryIO]:
    """Return whether an object has a `read` method."""
    return callable(getattr(source, "read", None))


def name_of(file: BinaryIO) -> str:
    """Return the path of an open file, or words for it if it has none."""
    name = getattr(file, "name", None)
    return os.fsdecode(name) if isinstance(name, (str, bytes)) and name else "the open file given"


def read_open(file: BinaryIO) -> bytes:
    """Read a file from its start, since one just written, or read before, is positioned at its end.

    Raises:
        ImageError: it cannot be read.
        InvalidArgument: it is opened as text.
    """
    if isinstance(file, io.TextIOBase):
        raise InvalidArgument(f"{name_of(file)} is opened as text; open a picture in binary mode, 'rb'")
    try:
        if callable(getattr(file, "seekable", None)) and file.seekable():
            file.seek(0)
        data: object = file.read()
    except (OSError, ValueError) as exc:
        why = (exc.strerror or exc) if isinstance(exc, OSError) else exc
        raise ImageError(f"{name_of(file)}: cannot be read: {why}", reason="unreadable") from exc
    if not isinstance(data, (bytes, bytearray)):
        raise InvalidArgument(f"{name_of(file)} returns {type(data).__name__}; expected the bytes of a picture")
    return bytes(data)
