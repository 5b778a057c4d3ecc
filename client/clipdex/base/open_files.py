"""Pictures that come as open files: files opened in binary mode, `io.BytesIO`, what a web framework hands over."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, TypeGuard

from clipdex.base.errors import ImageError, InvalidArgument

__all__ = ["is_open_file", "name_of", "read_open"]


def is_open_file(source: object) -> TypeGuard[BinaryIO]:
    """Whether it can be read from."""
    return callable(getattr(source, "read", None))


def name_of(file: BinaryIO) -> str:
    """Its path, where it has one."""
    name = getattr(file, "name", None)
    return os.fsdecode(name) if isinstance(name, (str, bytes)) and name else "the open file given"


def read_open(file: BinaryIO) -> bytes:
    """All of it, from its start: one that has just been written, or read before, stands at its end.

    Raises:
        ImageError: it cannot be read.
        InvalidArgument: it is opened as text.
    """
    if isinstance(file, io.TextIOBase):
        raise InvalidArgument(f"{name_of(file)} is opened as text; a picture is opened in binary mode, 'rb'")
    try:
        if callable(getattr(file, "seekable", None)) and file.seekable():
            file.seek(0)
        data: object = file.read()
    except (OSError, ValueError) as exc:
        why = (exc.strerror or exc) if isinstance(exc, OSError) else exc
        raise ImageError(f"{name_of(file)}: cannot be read: {why}", reason="unreadable") from exc
    if not isinstance(data, (bytes, bytearray)):
        raise InvalidArgument(f"{name_of(file)} gives {type(data).__name__} where a picture's bytes are expected")
    return bytes(data)
