"""Linux's renameat2: renaming without overwriting, or exchanging two names, in one step."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

__all__ = ["EXCHANGE", "NOREPLACE", "renameat2"]

NOREPLACE, EXCHANGE = 1, 2  # linux/fs.h

_AT_FDCWD = -100


def renameat2(old: bytes, new: bytes, flags: int) -> bool:
    """Rename `old` to `new` -> False if the system, the C library or the file system does not support it.

    Raises:
        OSError: it is supported, but failed: with NOREPLACE a FileExistsError if `new` exists.
    """
    function = _function()
    if function is None:
        return False
    if function(_AT_FDCWD, old, _AT_FDCWD, new, flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code), new)


@cache
def _function() -> Any:
    """Look up renameat2; None on macOS, and with an old C library."""
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
