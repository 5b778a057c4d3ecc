"""An index that is open: its files, and a snapshot of its committed rows that can be moved to a later commit."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import Closed, IndexDamaged, IndexFault
from clipdex.base.one_process import OfOneProcess
from clipdex.index.files import fault, gone, open_directory
from clipdex.index.manifest import Manifest
from clipdex.index.part_rows import PartedRows
from clipdex.index.row_reader import RowReader
from clipdex.index.rows import ROWS_FILE, RowStore
from clipdex.index.side.column_file import COLUMNS_FILE, ColumnFile
from clipdex.index.side.derived_file import DerivedFile
from clipdex.index.side.int8_file import INT8_FILE, Int8File
from clipdex.index.thumbnails import ThumbnailStore
from clipdex.index.vectors import map_vectors
from clipdex.index.where import FILTER_TIMEOUT_S, Where
from clipdex.search.estimates import RowNorms

__all__ = ["OpenedIndex"]


class OpenedIndex(OfOneProcess):
    """The open files of an index, and which of its rows there were at one moment. `Index` reads them."""

    generation: object

    def __init__(self, directory: Path, *, filter_timeout_s: float = FILTER_TIMEOUT_S) -> None:
        self.directory = directory
        self.filter_timeout_s = filter_timeout_s
        self._place = -1
        self._where: Where | None = None
        self._where_lock = threading.Lock()
        self._thumbnails: ThumbnailStore | None = None
        self._thumbnails_lock = threading.Lock()
        self._open_files()
        try:
            self._look_until_in_place()
        except BaseException:
            self._close_files()
            raise

    def _open_files(self) -> None:
        try:
            # Held open, so that its number is not given to another directory.
            place = open_directory(self.directory)
        except OSError as exc:
            Manifest.read(self.directory)  # gives a better error if the index does not exist
            raise fault(self.directory, exc) from exc
        try:
            self.manifest = Manifest.read(self.directory)
            self._opened_store: RowReader | PartedRows = RowStore.open(self.directory / ROWS_FILE, write=False)
        except BaseException:
            os.close(place)
            raise
        self._place = place
        self.generation = object()
        self._int8 = DerivedFile[Int8File](INT8_FILE)
        self._columns = DerivedFile[ColumnFile](COLUMNS_FILE)
        self._norms = RowNorms(unit=True)

    @property
    def _store(self) -> RowReader | PartedRows:
        self._require_open()
        return self._opened_store

    def _require_open(self) -> None:
        if self._place < 0:
            raise Closed(f"this Index of {self.directory} is closed: open it again with Index.open")

    def _look_until_in_place(self) -> None:
        """Take a snapshot with rows and vectors of the same index, even if a compaction swaps it meanwhile."""
        while True:
            try:
                self._look()
            except IndexDamaged:
                if self._in_place():
                    raise
            else:
                if self._in_place():
                    return
            self._close_files()
            self._open_files()

    def _in_place(self) -> bool:
        """Return whether the directory that was opened is still the one at its path."""
        try:
            return os.path.samestat(os.fstat(self._place), os.stat(self.directory))
        except FileNotFoundError as exc:
            raise gone(self.directory) from exc
        except OSError as exc:
            raise fault(self.directory, exc) from exc

    def _look(self) -> None:
        store = self.rows_now()
        self._version = store.data_version()  # before the snapshot: a commit in between is seen as new
        rows, dead = store.snapshot()
        self._vectors = map_vectors(self.directory, self.manifest, rows)
        self._dead: npt.NDArray[np.int64] = np.array(dead, dtype=np.int64)
        with self._where_lock:
            if self._where is not None:
                self._where.forget()

    def _close_files(self) -> None:
        if self._place >= 0:
            with self._where_lock:
                if self._where is not None:
                    self._where.close()
                self._where = None
            with self._thumbnails_lock:
                if self._thumbnails is not None:
                    self._thumbnails.close()
                self._thumbnails = None
            self._opened_store.close()
            os.close(self._place)
            self._place = -1

    def rows_now(self) -> RowReader:
        """The reader of its rows.sqlite, open until it is closed or finds a compaction."""
        assert isinstance(self._store, RowReader)
        return self._store

    def codes(self) -> Int8File | None:
        """The rows' int8 codes, if `optimize` has written codes that are usable; else None."""
        return self._int8.now(
            self.directory, lambda: Int8File.open(self.directory, self.manifest, self._store.extents())
        )

    def columns(self) -> ColumnFile | None:
        """The rows' columns of numbers and texts, if `optimize` has written columns that are usable; else None."""
        store = self.rows_now()
        return self._columns.now(self.directory, lambda: ColumnFile.open(self.directory, store.extents(), store))

    def _kept_thumbnail(self, content_hash: bytes) -> bytes | None:
        with self._thumbnails_lock:
            self._require_open()
            if self._thumbnails is None:
                self._thumbnails = ThumbnailStore.open(self.directory)
            found = self._thumbnails
            return None if found is None else found.get(content_hash)

    def _conditions(self) -> Where:
        with self._where_lock:
            if self._where is None:
                self._require_open()
                self._where = self._opened_where(0)
            return self._where

    def _opened_where(self, first: int) -> Where:
        """Open what evaluates conditions. first: the number that the first row has in them."""
        columns = self.columns if first == 0 else _no_columns
        opened = Where(self.directory / ROWS_FILE, timeout_s=self.filter_timeout_s, first=first, columns=columns)
        if not self._in_place():
            opened.close()
            raise IndexFault(f"{self.directory} was compacted since: refresh it, then filter")
        return opened


def _no_columns() -> None:
    """Stand for columns where conditions number the rows otherwise."""
