"""Local features of items, which have no file to make them of later, on their way to disk.

They are there before the rows that they are of: what a kill leaves are features of no row, which nothing reads.
"""

from __future__ import annotations

import logging
from pathlib import Path

from clipdex.base.errors import IndexDamaged, IndexFormatError, IndexLocked
from clipdex.index.side.feature_file import FeatureFile
from clipdex.looks.local_features import LocalFeatures, Recipe

__all__ = ["PendingFeatures"]

_MOST_BYTES = 16 << 20  # that wait for a commit; more are stored at once

_log = logging.getLogger("clipdex.index")


class PendingFeatures:
    """The features that wait for a commit of one index. Not safe between threads; close it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting: dict[bytes, tuple[Recipe, LocalFeatures]] = {}
        self._bytes = 0
        self._file: FeatureFile | None = None

    def put(self, content_hash: bytes, recipe: Recipe, features: LocalFeatures) -> None:
        """Keep the features of a content; they are on disk after `store`, or before. Raises as `store`."""
        if content_hash not in self._waiting:
            self._waiting[content_hash] = recipe, features
            self._bytes += len(features) * (16 + recipe.width)
            if self._bytes > _MOST_BYTES:
                self.store()

    def store(self) -> None:
        """Put on disk what waits; an index that has no features any more, or others, does without.

        Raises:
            IndexWriteError: the disk is full or failed.
            IndexFault: the system refuses to read what the index has.
        """
        if not self._waiting:
            return
        try:
            file = self._now()
            if file is not None:
                file.add({key: each for key, (recipe, each) in self._waiting.items() if recipe == file.recipe})
        except (IndexDamaged, IndexFormatError, IndexLocked) as exc:  # it is a side file: nothing else is lost
            _log.warning("%s; the local features of what is added are not kept", exc)
        self._waiting, self._bytes = {}, 0  # after a full disk they wait still: so do their rows

    def close(self) -> None:
        """Close the file; what waits is lost."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _now(self) -> FeatureFile | None:
        """Return the open file that the index has now; None if it has none."""
        if self._file is not None and not self._file.is_current():
            self.close()  # another one, or made anew
        if self._file is None:
            self._file = FeatureFile.open(self._directory, write=True)
        return self._file
