"""Writing files so that whatever was at their paths stays until the new ones are whole."""

from __future__ import annotations

import fcntl
import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from clipdex.base.errors import ClipdexError

__all__ = ["replacing", "together"]

_SUFFIX = ".clipdex-part"

# (temporary, its lock, where it goes, what it is) of files that are whole and wait for others; None: no others.
_Waiting = list[tuple[Path, int, Path, str]]
_waiting: ContextVar[_Waiting | None] = ContextVar("_waiting", default=None)


@contextmanager
def together() -> Iterator[None]:
    """Files that are replaced in the block take their places at its end, all of them, if no exception leaves it.

    Raises:
        ClipdexError: one cannot be renamed.
    """
    files: _Waiting = []
    token = _waiting.set(files)
    try:
        yield
        while files:
            temporary, lock, path, what = files[0]
            _put(temporary, path, what)
            os.close(lock)
            files.pop(0)
    finally:
        _waiting.reset(token)
        for temporary, lock, _, _ in files:
            _drop(temporary, lock)


@contextmanager
def replacing(path: Path, what: str) -> Iterator[BinaryIO]:
    """A new file, which takes the place of the one at `path` when the `with` block ends without an exception.

    In a block of `together` it takes it at the end of that. What killed processes left of such files is removed.

    what: names the file in errors, as in "the contact sheet". Folders on the way are made.

    Raises:
        ClipdexError: the file cannot be written.
    """
    temporary, lock = None, -1
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
            _put(temporary, path, what)
            os.close(lock)
        else:
            waiting.append((temporary, lock, path, what))
        temporary = None
    except OSError as exc:
        raise ClipdexError(f"{path}: {what} cannot be written: {exc.strerror or exc}") from exc
    finally:
        if temporary is not None:
            _drop(temporary, lock)


def _put(temporary: Path, path: Path, what: str) -> None:
    try:
        temporary.replace(path)
    except OSError as exc:
        raise ClipdexError(f"{path}: {what} cannot be written: {exc.strerror or exc}") from exc


def _drop(temporary: Path, lock: int) -> None:
    with suppress(OSError):
        temporary.unlink()
    os.close(lock)


def _prefix(path: Path) -> str:
    return f".{path.name[:100]}."


def _made(path: Path) -> tuple[Path, int]:
    """An empty file beside a path -> (where it is, a descriptor with a lock that says that its process lives)."""
    while True:
        lock, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=_SUFFIX)
        with suppress(OSError):  # a file system without locks: nobody can sweep there either
            fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(OSError):
            if os.path.samestat(os.fstat(lock), os.stat(name)):
                return Path(name), lock
        os.close(lock)  # swept away between being made and being locked


def _sweep(path: Path) -> None:
    """Remove what processes that are gone had begun to write for this path."""
    for name in path.parent.glob(glob.escape(_prefix(path)) + "*" + _SUFFIX):
        with suppress(OSError):
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                name.unlink()
            finally:
                os.close(fd)
