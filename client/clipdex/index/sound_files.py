"""What a run takes an index to know of files: nothing of one whose row, or what is said of it, is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipdex.base.records import KnownFile
from clipdex.index.files import fault, open_to_read
from clipdex.index.manifest import Manifest
from clipdex.index.rows import ROWS_FILE, RowStore
from clipdex.index.vectors import ExtentCheck

__all__ = ["SoundFiles"]


class SoundFiles:
    """Asked about a file, it reads the vectors of the commit that has the file's row, each commit once.

    So a run embeds anew what is damaged, and the new row takes the place of the damaged one.
    """

    def __init__(self, store: RowStore, check: ExtentCheck) -> None:
        self._store, self._is_sound = store, check

    @classmethod
    @contextmanager
    def open(cls, directory: Path) -> Iterator[SoundFiles]:
        """Those of an index that is not being written here.

        Raises:
            IndexFault: there is no index, or it is beyond reading.
        """
        manifest = Manifest.read(directory)
        store = RowStore.open(directory / ROWS_FILE, write=False)
        try:
            path = directory / manifest.vectors_file
            try:
                file = open_to_read(path)
            except OSError as exc:
                raise fault(path, exc) from exc
            with file:
                yield cls(store, ExtentCheck(file.fileno(), store.extents(), manifest))
        finally:
            store.close()

    def known(self, path: bytes) -> KnownFile | None:
        """What the committed index knows of a path, if anything sound."""
        found = self._store.known_soundly(path)
        return None if found is not None and found.row is not None and not self._is_sound(found.row) else found

    def has(self, path: bytes) -> bool:
        """Whether the committed index has anything of a path, sound or not."""
        return self._store.has_path(path)

    def row_of_content(self, content_hash: bytes) -> int | None:
        """A sound row, live or dead, whose file had this content."""
        return next(filter(self._is_sound, self._store.rows_of_content(content_hash)), None)
