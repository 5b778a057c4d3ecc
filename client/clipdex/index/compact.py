"""Rewriting an index without its tombstones, atomically."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipdex.errors import IndexWriteError
from clipdex.index.create import aside, building, put_back
from clipdex.index.vectors import sync_directory
from clipdex.index.writer import IndexWriter

__all__ = ["compact_index"]

_ROWS_AT_ONCE = 16_384

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def compact_index(directory: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Drop the dead rows and renumber the others, in their order -> how many were dropped.

    The new index is built beside the old one and takes its place in one step. Readers that have the old one
    open keep it until they refresh. Needs room for a second copy.

    Args:
        progress: called with the rows copied so far and all that will be.

    Raises:
        IndexLocked: another process is writing.
        IndexWriteError: the disk refused; the index is as it was.
    """
    put_back(directory)
    with IndexWriter(directory) as old:
        dropped = old.committed_rows - old.live_rows()
        if dropped == 0:
            return 0
        with building(directory, old.manifest) as new_directory:
            with IndexWriter(new_directory) as new:
                total, done = old.live_rows(), 0
                for pictures, vectors in old.live_blocks(_ROWS_AT_ONCE):
                    new.append(pictures, vectors)
                    new.commit()
                    done += len(pictures)
                    if progress is not None:
                        progress(done, total)
                for failure in old.failures():
                    new.fail(failure)
            with _translated(directory):
                _exchange(new_directory, directory)
                sync_directory(directory.parent)
            # What is now at `new_directory` is the old index; `building` removes it.
    return dropped


@contextmanager
def _translated(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise IndexWriteError(
            f"{directory}: the compacted index could not take its place: {exc.strerror}"
        ) from exc


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories: in one step where the kernel can (Linux), else in three renames."""
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):
        done = library.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
        if done == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code))
    shutil.rmtree(aside(other), ignore_errors=True)
    other.rename(aside(other))
    try:
        one.rename(other)
    except OSError:
        put_back(other)
        raise
    with suppress(OSError):  # the next compaction removes it
        aside(other).rename(one)
