"""The vectors file: rows one after another, appended with pwrite, read through a read-only memmap.

It is never written through a memmap: on a full disk that kills the process with SIGBUS; pwrite returns an error.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import google_crc32c
import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import IndexDamaged, IndexWriteError
from clipdex.base.records import Extent
from clipdex.index.files import allocate, fault, map_file, open_to_read, open_to_write, write_at
from clipdex.index.manifest import Manifest
from clipdex.search.cosines import not_unit

__all__ = ["CUT", "ExtentCheck", "VectorFile", "map_vectors", "read_extent"]

CUT = "the file was cut; restore it from a copy, or build the index again"

# Space is allocated ahead, an eighth of the file: a full disk is then noticed before a row is half written, and
# the file's metadata rarely changes, which makes syncing cheap.
_LEAST_AHEAD = 1 << 20
_MOST_AHEAD = 64 << 20

_BLOCK = 8 << 20  # read at once

# macOS has no fdatasync; its fsync does the same work.
_datasync = getattr(os, "fdatasync", os.fsync)


def map_vectors(directory: Path, manifest: Manifest, rows: int) -> Array:
    """Map the first `rows` rows of the file as a read-only array (rows, D); nothing is read yet.

    Raises:
        IndexDamaged: the file is missing, or shorter than what was committed.
        IndexFault: the system refuses to read it.
    """
    path = directory / manifest.vectors_file
    try:
        # Opened once: a compaction may put another file at the path before the length of this one is known.
        with open_to_read(path) as file:
            _require_length(path, os.fstat(file.fileno()).st_size, manifest, rows)
            if rows == 0:  # an empty file cannot be mapped
                return np.empty((0, manifest.embedding_dim), dtype=manifest.numpy_dtype)
            shape = (rows, manifest.embedding_dim)
            try:
                return map_file(file, path, manifest.numpy_dtype, shape)
            except OSError as exc:
                if exc.errno != errno.ENODEV:
                    raise
                # A file system without shared maps (9p, some FUSE) gives private ones.
                return map_file(file, path, manifest.numpy_dtype, shape, "c")
    except OSError as exc:
        raise fault(path, exc, f"; {rows} rows of it were committed") from exc


def _require_length(path: Path, size: int, manifest: Manifest, rows: int) -> None:
    if size < rows * manifest.row_bytes:
        raise IndexDamaged(
            f"{path}: has {size:,} bytes, but {rows:,} rows of {manifest.row_bytes} bytes were committed: {CUT}"
        )


def read_extent(fd: int, extent: Extent, manifest: Manifest) -> tuple[int, int, list[tuple[int, int]]]:
    """Read an extent's bytes in the vectors file.

    -> (their checksum, how many there are, the rows that are not finite or not of norm 1, as [first, end) pairs)
    """
    row_bytes = manifest.row_bytes
    start, length = extent.first_row * row_bytes, extent.row_count * row_bytes
    at_once = max(1, _BLOCK // row_bytes) * row_bytes
    crc32c, read = 0, 0
    unsound: list[tuple[int, int]] = []
    while read < length:
        data = os.pread(fd, min(length - read, at_once), start + read)
        if not data:
            break
        crc32c = google_crc32c.extend(crc32c, data)
        whole = len(data) // row_bytes  # fewer than requested at the end of the file
        rows = np.frombuffer(data, manifest.numpy_dtype, whole * manifest.embedding_dim)
        for at in not_unit(rows.reshape(whole, manifest.embedding_dim)):
            row = extent.first_row + read // row_bytes + int(at)
            if unsound and unsound[-1][1] == row:
                unsound[-1] = (unsound[-1][0], row + 1)
            else:
                unsound.append((row, row + 1))
        read += len(data)
        if len(data) % row_bytes:
            break
    return crc32c, read, unsound


class ExtentCheck:
    """Tells whether rows are as they were committed. Each extent is read once, when it is first needed.

    Rows after the extents count as undamaged: this process has written them.
    """

    def __init__(self, fd: int, extents: Sequence[Extent], manifest: Manifest) -> None:
        self._fd, self._extents, self._manifest = fd, extents, manifest
        self._firsts = [extent.first_row for extent in extents]
        self._end = max((extent.first_row + extent.row_count for extent in extents), default=0)
        self._unsound: dict[int, list[tuple[int, int]]] = {}  # of an extent: the rows, as [first, end)s

    def __call__(self, row: int) -> bool:
        """Return whether a row is undamaged."""
        if row >= self._end:
            return True
        number = bisect_right(self._firsts, row) - 1
        if number < 0:
            return False
        if number not in self._unsound:
            self._unsound[number] = self._read(self._extents[number])
        spans = self._unsound[number]
        at = bisect_right(spans, (row, self._end)) - 1
        return at < 0 or row >= spans[at][1]

    def _read(self, extent: Extent) -> list[tuple[int, int]]:
        with suppress(OSError, ValueError, OverflowError):  # a disk that cannot be read, or a damaged number
            crc32c, _, unsound = read_extent(self._fd, extent, self._manifest)
            if crc32c == extent.crc32c:
                return unsound
        return [(extent.first_row, extent.first_row + extent.row_count)]


class VectorFile:
    """The writer's vectors file. After a failed sync it refuses work: the kernel may have dropped pages."""

    def __init__(self, directory: Path, manifest: Manifest, committed: int) -> None:
        """Open the file and cut off what was never committed."""
        self._path = directory / manifest.vectors_file
        self._manifest, self._row_bytes = manifest, manifest.row_bytes
        self._dtype = manifest.numpy_dtype
        try:
            self._fd = open_to_write(self._path)
        except FileNotFoundError as exc:
            raise IndexDamaged(f"{self._path}: is missing; {committed} rows of it were committed") from exc
        except OSError as exc:
            raise IndexWriteError(f"{self._path}: cannot be opened for writing: {exc.strerror}") from exc
        try:
            _require_length(self._path, os.fstat(self._fd).st_size, manifest, committed)
        except BaseException:
            os.close(self._fd)
            raise
        self._broken = False
        self._allocated = committed * self._row_bytes
        self.rows = committed
        self.crc32c = 0  # of the rows since the last `start_extent`
        try:
            os.ftruncate(self._fd, committed * self._row_bytes)
        except OSError as exc:
            os.close(self._fd)
            raise IndexWriteError(f"{self._path}: cannot be cut to its committed rows: {exc.strerror}") from exc

    def append(self, vectors: Array) -> None:
        """Write rows, (n, D) of any float dtype, after those already written. Not yet durable.

        Raises:
            IndexWriteError: the disk is full or failed; `rows` is unchanged.
        """
        data = np.ascontiguousarray(vectors, dtype=self._dtype).tobytes()
        offset = self.rows * self._row_bytes
        with self._guard("writing to it"):
            self._allocate(offset + len(data))
            write_at(self._fd, data, offset)
        self.rows += len(vectors)
        self.crc32c = google_crc32c.extend(self.crc32c, data)

    def read(self, row: int) -> Array:
        """Read an appended row, committed or not: (D,) of the file's dtype."""
        data = os.pread(self._fd, self._row_bytes, row * self._row_bytes)
        return np.frombuffer(data, dtype=self._dtype)

    def check(self, extents: Sequence[Extent]) -> ExtentCheck:
        """Make a check of the rows of these extents."""
        return ExtentCheck(self._fd, extents, self._manifest)

    def _allocate(self, needed: int) -> None:
        """Allocate disk space for the first `needed` bytes, and some ahead if there is enough."""
        if needed <= self._allocated:
            return
        ahead = min(max(self._allocated // 8, _LEAST_AHEAD), _MOST_AHEAD)
        for end in (needed + ahead, needed):
            try:
                if allocate(self._fd, self._allocated, end - self._allocated):
                    self._allocated = end
                return
            except OSError:
                if end == needed:
                    raise

    def sync(self) -> None:
        """Return when every row appended is on disk."""
        with self._guard("syncing it"):
            try:
                _datasync(self._fd)
            except OSError:
                self._broken = True
                raise

    def start_extent(self) -> None:
        """Begin a new checksum."""
        self.crc32c = 0

    def give_up(self) -> None:
        """Refuse further work, and keep what was written: a failed commit may still take effect."""
        self._broken = True

    def close(self, committed: int | None) -> None:
        """Close the file, and cut it to the committed rows if their number is known."""
        if committed is not None and not self._broken:
            with suppress(OSError):  # opening it again does the same
                os.ftruncate(self._fd, committed * self._row_bytes)
        os.close(self._fd)

    def _guard(self, act: str) -> _Guard:
        if self._broken:
            raise IndexWriteError(f"{self._path}: an earlier sync or commit failed; open the index again")
        return _Guard(self._path, act)


class _Guard:
    """Turns an OSError into an IndexWriteError that says what was being done."""

    def __init__(self, path: Path, act: str) -> None:
        self._path, self._act = path, act

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise IndexWriteError(
                f"{self._path}: {self._act} failed: {error.strerror}; "
                "what was committed is untouched, and the next run continues from there"
            ) from error
