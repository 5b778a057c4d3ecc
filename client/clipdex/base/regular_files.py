"""Opening files that must be regular: a FIFO would block its reader for ever, and /dev/zero never ends."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

from clipdex.base.errors import ImageError

__all__ = ["BROKEN_LINK", "NOT_A_FILE", "is_broken_link", "open_picture"]

NOT_A_FILE = "is a directory, FIFO, socket or device, not a file"
BROKEN_LINK = "the link points to nothing"


def open_picture(path: str | bytes | os.PathLike[str]) -> BinaryIO:
    """Open the file of a picture to read, without blocking.

    Raises:
        ImageError: it is a FIFO, socket or device, or a link to nothing.
        OSError: like `open`; IsADirectoryError for a folder.
    """
    try:
        file = open(path, "rb", opener=_open_now)  # noqa: SIM115 - the caller closes it
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # a socket
            raise ImageError(NOT_A_FILE, reason="not_a_file") from exc
        if is_broken_link(path, exc):
            raise ImageError(BROKEN_LINK, reason="broken_link") from exc
        raise
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise ImageError(NOT_A_FILE, reason="not_a_file")


def is_broken_link(path: str | bytes | os.PathLike[str], error: OSError | ValueError) -> bool:
    """Whether a path could not be opened or examined because it is a link to nothing."""
    return isinstance(error, FileNotFoundError) and os.path.islink(path)


def _open_now(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
