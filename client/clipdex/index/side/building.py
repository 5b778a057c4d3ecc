"""Writing a side file: for which rows, and under another name and locked until it is whole and takes its place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path

from clipdex.base.errors import IndexLocked, IndexWriteError
from clipdex.base.records import Extent
from clipdex.index.file_system import locked
from clipdex.index.files import is_at, open_to_write, rename, require_regular, sync_directory

__all__ = ["building", "digest", "install", "is_of_first"]


def digest(extents: Sequence[Extent]) -> str:
    """Identify rows by a hash of their extents, which include the CRC-32C of their bytes."""
    text = "".join(f"{extent.first_row},{extent.row_count},{extent.crc32c};" for extent in extents)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def is_of_first(extents: Sequence[Extent], rows: int, made_of: str) -> bool:
    """Return whether a file of so many rows, with this digest of their extents, was made of the first of these."""
    ends = list(accumulate((extent.row_count for extent in extents), initial=0))
    return rows in ends and digest(extents[: ends.index(rows)]) == made_of


@contextmanager
def building(directory: Path, name: str, *, busy: str, overtaken: str) -> Iterator[int]:
    """Yield a descriptor of an empty, locked file, which is removed at the end unless `install` put it in place.

    busy, overtaken: the errors where another process has the lock, and where it has just finished its own file.

    Raises:
        IndexLocked: another process is building the file, or has just built it.
        IndexWriteError: the disk refused; the old file is as it was.
    """
    path = _unfinished(directory, name)
    require_regular(directory / name)  # before hours of work
    try:
        fd = open_to_write(path, make=True)
    except OSError as exc:
        raise IndexWriteError(f"{path}: cannot be written: {exc.strerror}") from exc
    try:
        if not locked(fd, path):
            raise IndexLocked(busy)
        # Between opening and locking, the process that had the lock may have renamed or removed it.
        if not is_at(fd, path):
            raise IndexLocked(overtaken)
        try:
            os.ftruncate(fd, 0)
            yield fd
        except OSError as exc:
            raise IndexWriteError(f"{path}: writing it failed: {exc.strerror}; the index is as it was") from exc
        finally:
            with suppress(OSError):
                if is_at(fd, path):
                    path.unlink()
    finally:
        os.close(fd)


def install(fd: int, directory: Path, name: str, again: str) -> None:
    """Put the file that `building` yielded in place; call it within that block.

    again: what to do where it cannot be, as in "optimize it again".

    Raises:
        IndexLocked: the directory was replaced by a compaction.
        OSError: the disk refused.
    """
    os.fsync(fd)
    # A compaction puts another directory, with other rows, at the path.
    if not is_at(fd, _unfinished(directory, name)):
        raise IndexLocked(f"{directory} was compacted meanwhile: nothing was written; {again}")
    rename(_unfinished(directory, name), directory / name)
    sync_directory(directory)


def _unfinished(directory: Path, name: str) -> Path:
    return directory / f"{name}.building"
