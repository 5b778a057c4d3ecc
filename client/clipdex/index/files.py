"""Opening and creating the files of an index: regular files in its directory, and nothing else.

An index may come from anyone. A link in place of a file would make us write to whatever it points to, a FIFO
would block for ever, a device may do anything. A file that is written in place must have no other name (hard
link) either, since the other would change with it. Nothing else in this package opens a file.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import IndexDamaged, IndexFault, IndexNotFound, IndexWriteError

__all__ = [
    "allocate",
    "create",
    "fault",
    "gone",
    "has_other_names",
    "identity",
    "is_at",
    "map_file",
    "open_directory",
    "open_to_read",
    "open_to_write",
    "rename",
    "require_database",
    "require_no_journal",
    "require_regular",
    "sync_directory",
    "write_at",
]

_AT_ONCE = 1 << 30  # macOS writes no 2 GiB at once

# The errors of file systems without `posix_fallocate`; others (NFS) emulate it.
_CANNOT_ALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

# Errors of the system that do not mean damage. Any other: the file is missing, or its disk cannot read it.
_REFUSALS = (
    *(errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT),
    *(errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN),
)

# What SQLite opens beside a database, by its path.
_COMPANIONS = ("-wal", "-shm", "-journal")


def fault(path: Path, exc: OSError, more: str = "") -> IndexFault:
    """Translate the error of reading a file of an index.

    IndexNotFound if its directory is gone, IndexFault if the system refused, else IndexDamaged.

    more: the end of the sentence.
    """
    if exc.errno == errno.ENOENT and not os.path.lexists(path.parent):
        return gone(path.parent)
    kind = IndexFault if exc.errno in _REFUSALS else IndexDamaged
    return kind(f"{path}: cannot be read: {exc.strerror}{more}")


def gone(directory: Path) -> IndexNotFound:
    """Make the error of an index that was there, and is not at its path any more."""
    return IndexNotFound(f"{directory}: there is no such index; it was moved or deleted")


def open_to_read(path: Path) -> BinaryIO:
    """Open an existing file, in binary. Raises IndexDamaged if it is not a regular file, OSError like `open`."""
    return os.fdopen(_open(path, os.O_RDONLY), "rb")


def identity(path: Path) -> tuple[int, ...] | None:
    """Return what tells a file from another that replaces it: device, inode, size, time; None if there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def map_file(
    file: BinaryIO,
    path: Path,
    dtype: npt.DTypeLike,
    shape: tuple[int, ...] | None = None,
    mode: Literal["r", "c"] = "r",
) -> npt.NDArray[Any]:
    """Map an opened file as an array that is only read. shape: all of it in one dimension if not given.

    Raises:
        OSError: the file system does not map files in this mode.
    """
    mapped = np.memmap(file, dtype=dtype, mode=mode, shape=shape)
    # NumPy learns no name from a descriptor, and without one `search.readahead` cannot tell whose the file is: so
    # whether it is in memory.
    mapped.filename = str(path)
    mapped.flags.writeable = False
    return mapped


def open_to_write(path: Path, *, make: bool = False) -> int:
    """Open a file for reading and writing, keeping its content -> its descriptor. make: create it if missing.

    Raises:
        IndexDamaged: it is not a regular file.
        IndexWriteError: it has other names (hard links).
        OSError: like `open`.
    """
    fd = _open(path, os.O_RDWR | (os.O_CREAT if make else 0))
    try:
        _require_one_name(path, os.fstat(fd))
    except IndexWriteError:
        os.close(fd)
        raise
    return fd


def create(path: Path, data: bytes) -> None:
    """Create a file and sync it to disk, replacing any existing one. Raises OSError."""
    with suppress(FileNotFoundError):
        path.unlink()  # of a link, the link
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def rename(old: Path, new: Path) -> None:
    """Replace a file of an index by another. Raises IndexDamaged if it is not a regular file, OSError."""
    require_regular(new)
    os.rename(old, new)


def open_directory(directory: Path | bytes) -> int:
    """Open a directory, also through a link -> its descriptor. Raises OSError."""
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC)


def sync_directory(directory: Path | bytes) -> None:
    """Sync a directory's entries to disk, so that a file just created or renamed survives a power cut."""
    fd = open_directory(directory)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_at(fd: int, data: bytes | memoryview, position: int) -> None:
    """Write all bytes at a position of a file. Raises OSError, with some of them written."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view[:_AT_ONCE], position)
        view, position = view[written:], position + written


def allocate(fd: int, start: int, length: int) -> bool:
    """Take the disk's space for bytes of a file -> whether the system and the file system can; writes tell else.

    Raises:
        OSError: the disk is full or failed.
    """
    if not hasattr(os, "posix_fallocate"):  # as on macOS
        return False
    try:
        os.posix_fallocate(fd, start, length)
    except OSError as exc:
        if exc.errno in _CANNOT_ALLOCATE:
            return False
        raise
    return True


def is_at(fd: int, path: Path) -> bool:
    """Return whether the file at a path is the open one."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def require_regular(path: Path) -> None:
    """Raise IndexDamaged if there is something at a path that is not a regular file."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # opening it gives a better error
    if not stat.S_ISREG(mode):
        raise _refusal(path, mode)


def has_other_names(path: Path) -> bool:
    """Return whether the file at a path has other names (hard links)."""
    try:
        return os.lstat(path).st_nlink > 1
    except OSError:
        return False


def require_database(path: Path, *, write: bool) -> None:
    """Raise IndexDamaged unless the database and SQLite's files beside it are regular files, or missing.

    write: also raise IndexWriteError if one of them has other names.
    """
    for each in (path, *(path.with_name(path.name + suffix) for suffix in _COMPANIONS)):
        require_regular(each)
        if write:
            with suppress(FileNotFoundError):
                _require_one_name(each, os.lstat(each))
    require_no_journal(path, "take the index from a copy, or build it again")


def require_no_journal(path: Path, advice: str) -> None:
    """Raise IndexDamaged if a database has a rollback journal. advice: how to be rid of it.

    clipdex leaves none: its databases have a WAL. SQLite would write the content of the journal to the database,
    and delete a file that it names, wherever that is.
    """
    journal = path.with_name(f"{path.name}-journal")
    with suppress(FileNotFoundError):
        if os.lstat(journal).st_size:
            raise IndexDamaged(
                f"{journal}: is a rollback journal, which no index has; SQLite would change {path.name} by it: "
                f"{advice}"
            )


def _open(path: Path, flags: int) -> int:
    require_regular(path)  # before it is opened: a device may do something even then
    try:
        fd = os.open(path, flags | _SAFELY, 0o666)
    except OSError:
        require_regular(path)  # it may have been put there meanwhile
        raise
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise _refusal(path, mode)
    return fd


def _require_one_name(path: Path, found: os.stat_result) -> None:
    if found.st_nlink > 1:
        raise IndexWriteError(
            f"{path}: has {found.st_nlink} names (hard links), as `cp -al` gives, and writing to it would "
            "change the others, too: copy the index's directory with `cp -r`, and write to the copy"
        )


def _refusal(path: Path, mode: int) -> IndexDamaged:
    kind = _KINDS.get(stat.S_IFMT(mode), "not a regular file")
    return IndexDamaged(
        f"{path}: is {kind}; an index consists of regular files in its directory, and nothing else is opened: "
        "put the file itself there, or build the index again"
    )
