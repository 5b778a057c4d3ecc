"""Shared memory that a server on this machine can read in place: files in /dev/shm, and their clean-up.

A file is locked (flock) by the process that made it, so that later processes recognise those of dead ones.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np

from clipdex.base.arrays import Array

__all__ = ["DIRECTORY", "PREFIX", "SharedMemory", "free_bytes", "remove_left_overs"]

DIRECTORY = Path("/dev/shm")  # noqa: S108 - where shm_open puts its objects on Linux
PREFIX = "clipdex-pixels-"


class SharedMemory:
    """Zeroed memory in a file, mapped here and in other processes. Close it, or use it in a `with`.

    name: of the file in /dev/shm, which shm_open("/NAME") opens; "" for unnamed memory, which only processes
        that are given `descriptor` can map.
    """

    def __init__(self, size: int, *, named: bool) -> None:
        """Raises OSError if /dev/shm does not exist, or `size` bytes are not free in it."""
        self.size = size
        self.name = ""
        if named:
            remove_left_overs()
            # If asked for more than is free, the kernel would first use up all that is left.
            if size > free_bytes():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.name, self.descriptor = _new_file()
        else:
            self.descriptor = os.memfd_create("clipdex", os.MFD_CLOEXEC)
        try:
            # Writing to pages that cannot be allocated would kill the process by SIGBUS; this fails instead.
            os.posix_fallocate(self.descriptor, 0, size)
            self._map = mmap.mmap(self.descriptor, size)
        except BaseException:
            self._remove()
            raise
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)
        self._start = self._bytes.ctypes.data

    @property
    def path(self) -> Path:
        """Path of the file, if the memory has a name."""
        return DIRECTORY / self.name

    @property
    def array(self) -> Array:
        """The whole memory, uint8 (size,)."""
        return self._bytes

    def offset_of(self, array: Array) -> int | None:
        """Return an array's offset in this memory, in bytes; None if it is elsewhere or not contiguous."""
        at = array.ctypes.data - self._start
        inside = array.size > 0 and at >= 0 and at + array.nbytes <= self.size
        return at if inside and array.flags.c_contiguous else None

    def close(self) -> None:
        """Remove the file and release the memory once no array uses it. Safe to call twice."""
        if self.descriptor >= 0:
            self._remove()

    def _remove(self) -> None:
        if self.name:
            with suppress(OSError):
                self.path.unlink()
        os.close(self.descriptor)
        self.descriptor = -1

    def __enter__(self) -> SharedMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def free_bytes() -> int:
    """Return the free bytes in /dev/shm. Raises OSError if it does not exist."""
    found = os.statvfs(DIRECTORY)
    return found.f_bavail * found.f_frsize


def _new_file() -> tuple[str, int]:
    """Create a locked file with an unused name -> its name, its descriptor."""
    while True:
        name = f"{PREFIX}{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(DIRECTORY / name, flags, 0o600)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Before the lock, another process may have taken it for a left-over and removed it.
            if os.fstat(descriptor).st_nlink:
                return name, descriptor
        os.close(descriptor)


def remove_left_overs() -> None:
    """Remove the files in /dev/shm that this user's processes left when they ended without closing them."""
    with suppress(OSError):
        for path in DIRECTORY.glob(f"{PREFIX}*"):
            with suppress(OSError):
                _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its owner is alive
        path.unlink()
    finally:
        os.close(descriptor)
