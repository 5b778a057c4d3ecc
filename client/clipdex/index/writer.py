"""The single writer of an index: append, then commit.

Vectors are written and synced first, then one SQLite transaction commits them. If the process ends in between, for
whatever reason, opening the index again cuts it back to the last commit.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.arrays import Array
from clipdex.base.errors import (
    Closed,
    IndexDamaged,
    IndexFault,
    IndexFormatError,
    IndexLocked,
    IndexWriteError,
    InvalidArgument,
)
from clipdex.base.interrupts import interrupts_wait
from clipdex.base.one_process import OfOneProcess
from clipdex.base.records import Changes, Failure, KnownFile, Picture
from clipdex.index.create import LOCK_FILE, create_index, put_back, sweep_unfinished
from clipdex.index.file_system import locked
from clipdex.index.files import is_at, open_to_write, sync_directory
from clipdex.index.manifest import Manifest
from clipdex.index.rows import ROWS_FILE, RowStore
from clipdex.index.side.pending_features import PendingFeatures
from clipdex.index.sound_files import SoundFiles
from clipdex.index.thumbnails import LARGEST_THUMBNAIL, ThumbnailStore
from clipdex.index.vectors import VectorFile, map_vectors
from clipdex.index.wal import wal_damage
from clipdex.looks.local_features import LocalFeatures, Recipe
from clipdex.search.cosines import OFF_WHEN_WRITTEN, not_unit
from clipdex.search.kernels import rounded

__all__ = ["IndexWriter"]

_T = TypeVar("_T")

_THUMBNAIL_BYTES = 16 << 20  # that wait for a commit; more are stored at once

_log = logging.getLogger("clipdex.index")


class IndexWriter(OfOneProcess):
    """An index opened for writing with `open_or_create`; a context manager.

    Leaving the `with` block commits what was appended, unless it is left by an exception.
    """

    def __init__(self, directory: PathLike) -> None:
        self.directory = directory = as_path(directory, "the path of an index")
        self.manifest = Manifest.read(directory)  # before a lock file is put into a folder that is not an index
        self._lock = _lock(directory)
        sweep_unfinished(directory)
        try:
            _sync_name(directory)
            if lost := wal_damage(directory / ROWS_FILE):  # opening it for writing discards the rest
                _log.warning("%s: %s; clipdex index makes their rows again", directory, lost)
            self._row_store = RowStore.open(directory / ROWS_FILE, write=True)
            try:
                self._committed = self._row_store.committed_rows()
                extents = self._row_store.extents()
                self._vector_file = VectorFile(directory, self.manifest, self._committed)
                self._sound_files = SoundFiles(self._row_store, self._vector_file.check(extents))
            except BaseException:
                self._row_store.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise
        self._pending = Changes()
        self._row_of_content: dict[bytes, int] = {}  # of rows appended since the last commit
        self._thumbnails: dict[bytes, bytes] = {}  # since the last commit
        self._thumbnail_bytes = 0
        self._thumbnail_store: ThumbnailStore | None = None
        self._features = PendingFeatures(directory)

    @classmethod
    def open_or_create(cls, directory: PathLike, manifest: Manifest) -> IndexWriter:
        """Open the index at `directory` for writing; create it if it does not exist.

        Raises:
            IndexFormatError: there is something else at that path.
            IndexLocked: another process is writing.
            IndexDamaged: the vectors file is shorter than the commit record says.
            IndexWriteError: the directory cannot be written.
        """
        directory = as_path(directory, "the path of an index")
        put_back(directory)
        if not os.path.lexists(directory):
            create_index(directory, manifest)
        elif directory.is_dir() and not any(directory.iterdir()):
            raise IndexFormatError(
                f"{directory} is an empty directory, not a clipdex index: remove it, or give another path"
            )
        return cls(directory)

    # A closed descriptor's number may belong to another file by now: never write through one.

    @property
    def _store(self) -> RowStore:
        return self._if_open(self._row_store)

    @property
    def _vectors(self) -> VectorFile:
        return self._if_open(self._vector_file)

    @property
    def _files(self) -> SoundFiles:
        return self._if_open(self._sound_files)

    @property
    def _changes(self) -> Changes:
        return self._if_open(self._pending)

    def _if_open(self, part: _T) -> _T:
        if self._lock < 0:
            raise Closed(f"this IndexWriter of {self.directory} is closed: open it again to continue")
        return part

    def __repr__(self) -> str:
        state = f"{self._committed} rows, {self.pending} changes to commit" if self._lock >= 0 else "closed"
        return f"<clipdex.IndexWriter {os.fspath(self.directory)!r}: {state}>"

    @property
    def committed_rows(self) -> int:
        """The number of committed rows, tombstones included."""
        return self._committed

    @property
    def pending(self) -> int:
        """The number of uncommitted changes."""
        return len(self._changes)

    def known(self, path: bytes) -> KnownFile | None:
        """Look up a path in the committed index; None if it is unknown, or one of its records is damaged."""
        return self._files.known(path)

    def known_among(self, paths: Sequence[bytes]) -> dict[bytes, KnownFile]:
        """Look up many paths like `known`; those for which it is None are not among the found."""
        return self._files.known_among(paths)

    def contents_among(self, content_hashes: Sequence[bytes]) -> set[bytes]:
        """Find the contents that a row has, committed or not: of the others, `row_of_content` is None."""
        pending = {content for content in content_hashes if content in self._row_of_content}
        return pending | self._files.contents_among([each for each in content_hashes if each not in pending])

    def has(self, path: bytes) -> bool:
        """Return whether the committed index has a row or a line in the ledger for a path, damaged or not."""
        return self._files.has(path)

    def metadata(self, row: int) -> str:
        """The metadata of a committed row's picture as JSON; `{}` if it has none."""
        return self._store.metadata(row)

    def row_of_content(self, content_hash: bytes) -> int | None:
        """Find a row whose file had this content, live or dead, committed or not, but never a damaged one."""
        row = self._row_of_content.get(content_hash)
        if row is None:
            row = self._files.row_of_content(content_hash)
        return row

    def live_paths_of_content(self, content_hash: bytes, most: int) -> list[bytes]:
        """List the paths of the committed live rows whose file had this content, by row, at most `most`."""
        return self._store.live_paths_of_content(content_hash, most)

    def vector(self, row: int) -> Array:
        """Read the vector of an appended row, (D,) of the index's dtype."""
        return self._vectors.read(row)

    def live_rows(self) -> int:
        """The number of committed rows without tombstones."""
        rows, dead = self._store.snapshot()
        return rows - len(dead)

    def live_paths(self, rows: int) -> Iterator[list[bytes]]:
        """Iterate over the paths of the committed live rows, by row, at most `rows` at once."""
        for start in range(0, self._committed, rows):
            yield [path for _, path in self._store.live_paths(start, min(start + rows, self._committed))]

    def live_blocks(
        self, rows: int, without: Container[int] = frozenset()
    ) -> Iterator[tuple[list[Picture], Array]]:
        """Iterate over the committed live rows in order, at most `rows` at once: pictures, and vectors (n, D)."""
        vectors = map_vectors(self.directory, self.manifest, self._committed)
        for start in range(0, self._committed, rows):
            live = self._store.live_pictures(start, min(start + rows, self._committed))
            live = {row: picture for row, picture in live.items() if row not in without}
            if live:
                yield list(live.values()), vectors[list(live)]

    def live_pictures(self, start: int, end: int) -> dict[int, Picture]:
        """Read the pictures of the committed live rows in [start, end), by row, in order."""
        return self._store.live_pictures(start, end)

    def failures(self, *, damaged: bool = True) -> list[Failure]:
        """Read the committed ledger, by path. damaged=False: leave out damaged lines."""
        return self._store.failures(damaged=damaged)

    def failed_paths(self) -> list[bytes]:
        """List the paths in the committed ledger, including those of damaged lines that still have a path."""
        return self._store.failed_paths()

    def commit_times(self) -> tuple[int | None, int | None]:
        """When rows were first and last committed: seconds since 1970, or None."""
        return self._store.commit_times()

    def append(self, pictures: Sequence[Picture], vectors: Array) -> None:
        """Add rows: n pictures and their vectors, (n, D) of a float dtype, each of norm 1 within 1e-2.

        Raises:
            InvalidArgument: the shapes do not match, a value is not finite, or a norm is not 1.
            IndexWriteError: the disk is full or failed.
        """
        expected = (len(pictures), self.manifest.embedding_dim)
        if vectors.shape != expected or not np.issubdtype(vectors.dtype, np.floating):
            raise InvalidArgument(
                f"{self.directory}: expected floats of shape {expected}, not {vectors.dtype} {vectors.shape}"
            )
        # Check them as they will be stored: what is too large for float16 is not finite there.
        stored = rounded(vectors, self.manifest.numpy_dtype)
        if len(off := not_unit(stored, OFF_WHEN_WRITTEN)):
            if not np.isfinite(vectors).all():
                raise InvalidArgument(f"{self.directory}: a vector contains NaN or infinity; nothing was appended")
            norm = float(np.linalg.norm(vectors[off[0]].astype(np.float64)))
            raise InvalidArgument(
                f"{self.directory}: vector {off[0]} has norm {norm:.4g}, expected 1 within 0.01: divide each by "
                "its norm; nothing was appended"
            )
        first = self._vectors.rows
        self._vectors.append(stored)
        for i, picture in enumerate(pictures):
            self._row_of_content.setdefault(picture.content_hash, first + i)
        self._changes.pictures.extend(pictures)

    def fail(self, failure: Failure) -> None:
        """Add a file to the ledger."""
        self._changes.failures.append(failure)

    def remove(self, path: bytes) -> None:
        """Put a tombstone on the row of a path, and remove the path from the ledger."""
        self._changes.removed.append(path)

    def touch(self, picture: Picture) -> None:
        """Record the new times, size and metadata of a file whose content is unchanged."""
        self._changes.touched.append(picture)

    def annotate(self, path: bytes, metadata: str) -> None:
        """Replace the metadata of an unchanged file; metadata: JSON of an object."""
        self._changes.annotated.append((path, metadata))

    def date(self, path: bytes, ctime_ns: int) -> None:
        """Record the ctime of a file that has not changed, or that failed before, in nanoseconds since 1970."""
        self._changes.dated.append((path, ctime_ns))

    def sign(self, path: bytes, phash: bytes) -> None:
        """Record the perceptual signature of an unchanged file."""
        self._changes.signed.append((path, phash))

    def keep_thumbnail(self, content_hash: bytes, jpeg: bytes) -> None:
        """Keep a JPEG of at most 24 KiB for rows with this content; on disk with the next commit, or before it.

        Raises:
            IndexWriteError: the disk is full or failed.
        """
        self._if_open(self._lock)
        if len(jpeg) <= LARGEST_THUMBNAIL and content_hash not in self._thumbnails:
            self._thumbnails[content_hash] = jpeg
            self._thumbnail_bytes += len(jpeg)
            if self._thumbnail_bytes > _THUMBNAIL_BYTES:
                self._store_thumbnails()

    def _store_thumbnails(self) -> None:
        if not self._thumbnails:
            return
        try:
            if self._thumbnail_store is None:
                self._thumbnail_store = ThumbnailStore.open(self.directory, write=True)
            assert self._thumbnail_store is not None
            self._thumbnail_store.add(self._thumbnails)
        except IndexDamaged as exc:  # it is a side file: nothing else is lost
            _log.warning("%s; thumbnails are not kept", exc)
        self._thumbnails, self._thumbnail_bytes = {}, 0

    def keep_features(self, content_hash: bytes, recipe: Recipe, features: LocalFeatures) -> None:
        """Keep local features for rows with this content, if the index has such; on disk with the next commit.

        Raises:
            IndexWriteError: the disk is full or failed.
        """
        self._if_open(self._features).put(content_hash, recipe, features)

    def in_place(self) -> bool:
        """Return whether the index that is open is still the one at its path."""
        return is_at(self._if_open(self._lock), self.directory / LOCK_FILE)

    def commit(self, at: int | None = None) -> int:
        """Make everything since the last commit durable -> the number of rows now committed.

        Args:
            at: the time of commit to record, seconds since 1970 (default: now).

        Raises:
            IndexWriteError: the disk is full or failed; the index is as the last commit left it, or has this one
                completely, and this writer takes no more rows.
        """
        if self.pending:
            with interrupts_wait():
                self._commit(at)
        return self._committed

    def _commit(self, at: int | None) -> None:
        # Before the rows: a row that is there has its thumbnail and its features.
        self._store_thumbnails()
        self._features.store()
        if self._changes.pictures:
            self._vectors.sync()
        try:
            self._store.commit(self._committed, self._vectors.crc32c, self._changes, at)
        except IndexFault:
            # The failed commit may be complete in SQLite's journal and take effect when the index is opened again.
            self._vectors.give_up()
            raise
        self._committed = self._vectors.rows
        self._vectors.start_extent()
        self._pending = Changes()
        self._row_of_content.clear()

    def close(self) -> None:
        """Close the files and release the lock. Uncommitted changes are lost."""
        if self._lock >= 0:
            try:
                # Read from the database: Ctrl-C may have come between a commit and the update of `_committed`.
                committed = self._row_store.committed_rows()
            except IndexFault:
                committed = None
            if self._thumbnail_store is not None:
                self._thumbnail_store.close()
            self._features.close()
            self._vector_file.close(committed)
            self._row_store.close()
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> IndexWriter:
        self._if_open(self._lock)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._lock >= 0:
                self.commit()
        finally:
            self.close()


def _sync_name(directory: Path) -> None:
    """Sync an index's name to disk: the process that created or swapped it may have been killed before that."""
    try:
        sync_directory(Path(os.path.realpath(directory)).parent)
    except PermissionError:
        pass  # the folder is not readable, so this process has not created anything in it
    except OSError as exc:
        raise IndexWriteError(f"{directory}: its folder cannot be synced: {exc.strerror}") from exc


def _lock(directory: Path) -> int:
    """Take an exclusive lock on the index, held until the descriptor is closed, however the process ends."""
    path = directory / LOCK_FILE
    try:
        fd = open_to_write(path, make=True)
    except OSError as exc:
        raise IndexWriteError(f"{directory}: cannot be opened for writing: {exc.strerror}") from exc
    try:
        if not locked(fd, path):
            holder = os.pread(fd, 200, 0).decode("utf-8", "replace").strip() or "another process"
            raise IndexLocked(f"{directory} is being written to by {holder}; wait for it, or stop it")
        if is_at(fd, path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode(), 0)
            return fd
    except OSError as exc:
        os.close(fd)
        raise IndexWriteError(f"{path}: cannot be written: {exc.strerror}") from exc
    except BaseException:
        os.close(fd)
        raise
    # Between opening and locking, another process put a compacted index in this one's place.
    os.close(fd)
    return _lock(directory)
