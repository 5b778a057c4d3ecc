"""Detecting file systems that lack what an index needs: locks, and memory shared between processes."""

from __future__ import annotations

import fcntl
import mmap
import os
import re
from pathlib import Path

from clipdex.base.errors import IndexLocked, IndexWriteError
from clipdex.base.mounts import mounted
from clipdex.index.files import open_to_read, open_to_write

__all__ = ["lacking", "lock_file", "locked"]

# As /proc/self/mountinfo names them.
_REMOTE = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|fuse\..*|fuse|afs|ceph|lustre|glusterfs|beegfs|vboxsf|drvfs|prl_fs|virtiofs"
)
_WHERE_TO = "keep the index on a local disk, docs/durability.md"


def locked(fd: int, path: Path) -> bool:
    """Lock an open file until its descriptor is closed -> True, or False if another process has the lock.

    Raises:
        IndexWriteError: its file system does not support locks; the error names it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        raise IndexWriteError(f"{path}: cannot be locked: {exc.strerror}: {_described(path)}") from exc
    return True


def lock_file(path: Path, directory: Path, busy: str) -> int:
    """Open a file, made if missing, and lock it -> the descriptor that holds the lock until it is closed.

    directory: what the lock is for. busy: the error where another process has it.

    Raises:
        IndexLocked: another process has it.
        IndexWriteError: the file cannot be opened for writing, or its file system does not support locks.
    """
    try:
        fd = open_to_write(path, make=True)
    except OSError as exc:
        raise IndexWriteError(f"{directory}: cannot be opened for writing: {exc.strerror}") from exc
    try:
        if locked(fd, path):
            return fd
        raise IndexLocked(busy)
    except BaseException:
        os.close(fd)
        raise


def lacking(file: Path) -> str | None:
    """Describe the file system of a file in one clause, if it lacks locks or shared memory; else None.

    file: one that no part of clipdex locks with fcntl: testing it would release the lock.
    """
    try:
        with open_to_read(file) as opened:
            fcntl.lockf(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.fstat(opened.fileno()).st_size:
                mmap.mmap(opened.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ).close()
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return _described(file)
    return None


def _described(path: Path) -> str:
    """Describe a file system without locks or shared memory in one clause."""
    kind = _kind(path)
    if _REMOTE.fullmatch(kind):
        return f"this looks like a network file system ({kind}): {_WHERE_TO}"
    named = f" ({kind})" if kind else ""
    return f"its file system{named} lacks locks or shared memory, like a network file system: {_WHERE_TO}"


def _kind(path: Path) -> str:
    """Find the kind of file system that a path is on, as Linux names it; "" if unknown."""
    place, longest, kind = os.path.realpath(path), -1, ""
    for mount, named in mounted():
        if (place + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= longest:
            longest, kind = len(mount), named
    return kind
