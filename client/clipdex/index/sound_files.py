"""Looking up files in an index for a run, where damaged rows and records count as unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipdex.base.records import KnownFile
from clipdex.index.files import fault, open_to_read
from clipdex.index.manifest import Manifest
from clipdex.index.rows import ROWS_FILE, RowStore
from clipdex.index.vectors import ExtentCheck

__all__ = ["SoundFiles"]


class SoundFiles:
    """Looks up files, and checks the vectors of the commit with a file's row, reading each commit once.

    So a run embeds damaged pictures again, and the new row replaces the damaged one.
    """

    def __init__(self, store: RowStore, check: ExtentCheck) -> None:
        self._store, self._is_sound = store, check

    @classmethod
    @contextmanager
    def open(cls, directory: Path) -> Iterator[SoundFiles]:
        """Open an index only for reading.

        Raises:
            IndexFault: there is no index, or it cannot be read.
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
        """Look up a path in the committed index; None if it is unknown or damaged."""
        return self.known_among([path]).get(path)

    def known_among(self, paths: Sequence[bytes]) -> dict[bytes, KnownFile]:
        """Look up many paths; unknown and damaged ones are not among the found."""
        found = self._store.known_soundly_among(paths)
        return {path: file for path, file in found.items() if file.row is None or self._is_sound(file.row)}

    def has(self, path: bytes) -> bool:
        """Return whether the committed index has a path, damaged or not."""
        return self._store.has_path(path)

    def contents_among(self, content_hashes: Sequence[bytes]) -> set[bytes]:
        """Find those that a committed row has, damaged or not: of the others, `row_of_content` is None."""
        return self._store.contents_among(content_hashes)

    def row_of_content(self, content_hash: bytes) -> int | None:
        """Find an undamaged row, live or dead, whose file had this content."""
        return next(filter(self._is_sound, self._store.rows_of_content(content_hash)), None)
