"""Linux's rename with a condition: onto nothing, or two names exchanged, in one step."""

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
    """Rename `old` to `new` -> False where the system, the C library or the file system cannot do it so.

    Raises:
        OSError: it can, and did not: with NOREPLACE a FileExistsError where `new` is.
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
    """None on macOS, and with an old C library."""
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
