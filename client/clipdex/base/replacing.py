"""Renaming in one step: files that replace others once they are complete, and Linux's renameat2."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from clipdex.base.errors import ClipdexError
from clipdex.base.interrupts import interrupts_wait

__all__ = ["EXCHANGE", "NOREPLACE", "renameat2", "replacing", "require_replaceable", "together"]

NOREPLACE, EXCHANGE = 1, 2  # linux/fs.h

_AT_FDCWD = -100

_SUFFIX = ".clipdex-part"
_NAME_BYTES = 100  # of a path's name, in that of its temporary file

_NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)  # errors where a folder cannot be synced

# (temporary, its lock, destination, description) of complete files in a block of `together`; None outside one.
_Waiting = list[tuple[Path, int, Path, str]]
_waiting: ContextVar[_Waiting | None] = ContextVar("_waiting", default=None)


@contextmanager
def together() -> Iterator[None]:
    """Replace all files written in the block at its end, unless it is left by an exception.

    The old version of the first file is removed before any other is replaced, and its new version comes last: if
    it exists, all files are from the same block, even after a kill or a power cut.

    Raises:
        ClipdexError: one cannot be renamed.
    """
    files: _Waiting = []
    token = _waiting.set(files)
    try:
        yield
        with _locked({path.parent for _, _, path, _ in files}), interrupts_wait():
            _put_all(files)
    finally:
        _waiting.reset(token)
        for temporary, lock, _, _ in files:
            _drop(temporary, lock)


@contextmanager
def replacing(path: Path, what: str) -> Iterator[BinaryIO]:
    """Write a new file that replaces the one at `path` when the `with` block ends without an exception.

    Inside a block of `together` it is replaced at the end of that. Leftovers of killed processes are removed.

    what: names the file in errors, as in "the contact sheet". Missing folders are created.

    Raises:
        ClipdexError: the file cannot be written, or is a device, FIFO or socket.
    """
    temporary, lock = None, -1
    require_replaceable(path, f"{what} cannot be written")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary, lock = _made(path)
        with os.fdopen(os.dup(lock), "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        waiting = _waiting.get()
        if waiting is None:
            with interrupts_wait():
                _put(temporary, path, what)
        else:
            waiting.append((temporary, lock, path, what))
            temporary = None
    except OSError as exc:
        raise ClipdexError(f"{path}: {what} cannot be written: {exc.strerror or exc}") from exc
    finally:
        if temporary is not None:
            _drop(temporary, lock)


def require_replaceable(path: Path, what: str) -> None:
    """Check that a file may take the place of what is at `path`.

    Root could replace /dev/null itself, and every other program would then write into the new file.

    what: what cannot be done, as in "the contact sheet cannot be written".

    Raises:
        ClipdexError: it is a device, FIFO or socket, or a link such as /dev/stdout.
    """
    try:
        mode = path.stat().st_mode
        special = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
        special = special or (path.is_symlink() and os.readlink(path).startswith("/proc/"))
    except OSError:  # there is nothing yet, or writing says what is wrong
        return
    if special:
        raise ClipdexError(f"{path}: {what}: it is a device, FIFO or socket; give the path of a file")


def renameat2(old: bytes, new: bytes, flags: int) -> bool:
    """Rename `old` to `new` -> False if the system, the C library or the file system does not support it.

    Raises:
        OSError: it is supported, but failed: with NOREPLACE a FileExistsError if `new` exists.
    """
    function = _renameat2()
    if function is None:
        return False
    if function(_AT_FDCWD, old, _AT_FDCWD, new, flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code), new)


@cache
def _renameat2() -> Any:
    """Look up renameat2; None on macOS, and with an old C library."""
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def _put_all(files: _Waiting) -> None:
    for _, _, path, what in files:
        if path.is_dir() and not path.is_symlink():
            raise ClipdexError(f"{path}: {what} cannot be written: {os.strerror(errno.EISDIR)}")
    if len(files) < 2:
        for temporary, _, path, what in files:
            _put(temporary, path, what)
        return
    first, others = files[0], files[1:]
    with _taken_away(first[2], first[3]) as put_back:
        for i, (temporary, _, path, what) in enumerate(others):
            try:
                _put(temporary, path, what)
            except ClipdexError:
                if i == 0 and temporary.exists():  # nothing has changed yet
                    put_back()
                raise
        _put(first[0], first[2], first[3])


def _put(temporary: Path, path: Path, what: str) -> None:
    """Rename a file, and sync the rename to disk before anything else happens."""
    try:
        temporary.replace(path)
        _sync(path.parent)
    except OSError as exc:
        raise ClipdexError(f"{path}: {what} cannot be written: {exc.strerror or exc}") from exc


@contextmanager
def _taken_away(path: Path, what: str) -> Iterator[Callable[[], None]]:
    """Move the file at a path away for the block; yields a function that restores it."""
    aside, lock = None, -1
    try:
        try:
            if os.path.lexists(path):
                aside, lock = _made(path)
                path.replace(aside)
                _sync(path.parent)
        except OSError as exc:
            raise ClipdexError(f"{path}: {what} cannot be written: {exc.strerror or exc}") from exc

        def put_back() -> None:
            if aside is not None:
                with suppress(OSError):
                    aside.replace(path)
                    _sync(path.parent)

        yield put_back
    finally:
        if aside is not None:
            _drop(aside, lock)


@contextmanager
def _locked(folders: set[Path]) -> Iterator[None]:
    """Lock folders, so that two processes that put files that belong together there do not mix them."""
    held: dict[tuple[int, int], int] = {}  # by device and inode, as a folder may be given by several names
    try:
        for folder in folders:
            with suppress(OSError):  # an unreadable folder is not locked
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                found = os.fstat(descriptor)
                if held.setdefault((found.st_dev, found.st_ino), descriptor) != descriptor:
                    os.close(descriptor)
        for _, descriptor in sorted(held.items()):
            with suppress(OSError):  # nor on a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        for descriptor in held.values():
            os.close(descriptor)


def _sync(folder: Path) -> None:
    """Sync a folder's entries to disk, if it may be opened and can be synced. Raises OSError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def _drop(temporary: Path, lock: int) -> None:
    with suppress(OSError):
        temporary.unlink()
    os.close(lock)


def _prefix(path: Path) -> str:
    return f".{os.fsdecode(os.fsencode(path.name)[:_NAME_BYTES])}."


def _made(path: Path) -> tuple[Path, int]:
    """Create an empty file beside a path -> (its path, a descriptor whose lock shows that we are alive)."""
    while True:
        lock, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=_SUFFIX)
        with suppress(OSError):  # a file system without locks: no process can remove it there either
            fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(OSError):
            if os.path.samestat(os.fstat(lock), os.stat(name)):
                return Path(name), lock
        os.close(lock)  # it was removed between being created and being locked


def _sweep(path: Path) -> None:
    """Remove temporary files for this path that were left by processes that have ended."""
    for name in path.parent.glob(glob.escape(_prefix(path)) + "*" + _SUFFIX):
        with suppress(OSError):
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                name.unlink()
            finally:
                os.close(fd)
