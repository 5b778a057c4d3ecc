"""The local features of the live rows of an open index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from types import TracebackType

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import Closed, IndexFault, NoLocalFeatures
from clipdex.index.reader import Index
from clipdex.index.side.feature_file import FEATURES_FILE, FeatureFile
from clipdex.looks.local_features import LocalFeatures, Recipe

__all__ = ["FeatureStore"]

_ROWS_AT_ONCE = 500
_BLOCK = 65_536  # descriptors, and what one more picture has

_Rows = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]


class FeatureStore:
    """A reader of the local features of an index as of the moment it was opened; close it, and open another.

    Rows are numbered as the index numbers them, also those of an index of parts. Safe to share between threads.

    recipe: how they were made. generation: the index's own; rows have other numbers if the index has another one.
    stamp: a text that identifies the features of all parts: another one once some were added or dropped.
    """

    def __init__(self, index: Index, files: Sequence[tuple[int, Index, FeatureFile]]) -> None:
        """files: of those parts that have some."""
        self._index = index
        held = {part.directory for _, part, _ in files}
        self._without = [part.directory for _, part in index.pieces() if part.directory not in held]
        self._files = list(files)  # first row, part, its features
        self.recipe: Recipe = self._files[0][2].recipe
        self.generation = index.generation
        self._ends = [first + len(part.vectors) for first, part, _ in self._files]
        text = [
            (first, end, each.identity.hex(), *each.count())
            for (first, _, each), end in zip(self._files, self._ends, strict=True)
        ]
        self.stamp = hashlib.blake2b(repr(text).encode(), digest_size=16).hexdigest()

    @classmethod
    def open(cls, index: Index) -> FeatureStore:
        """Open the features of an open index.

        Raises:
            NoLocalFeatures: it has none.
            IndexFault: they cannot be read, or its parts have different kinds.
        """
        files: list[tuple[int, Index, FeatureFile]] = []
        try:
            for first, part in index.pieces():
                found = FeatureFile.open(part.directory)
                if found is not None:
                    files.append((first, part, found))
            if not files:
                raise NoLocalFeatures(
                    f"{index.directory} has no local features; make them with  clipdex features build  first"
                )
            for _, part, each in files:
                if each.recipe != files[0][2].recipe:
                    raise IndexFault(
                        f"{part.directory} has other local features ({each.recipe}) than "
                        f"{files[0][1].directory} ({files[0][2].recipe}): make them anew with  "
                        "clipdex features build --rebuild"
                    )
            return cls(index, files)
        except BaseException:
            for _, _, each in files:
                each.close()
            raise

    @property
    def kind(self) -> str:
        """The kind of the features: sift or orb."""
        return self.recipe.kind

    def of(self, row: int) -> LocalFeatures | None:
        """Return the features of a live row; None if none were made for it, or they are damaged.

        Raises:
            IndexFault: they cannot be read.
        """
        self._require_open()
        row = int(row)  # SQLite does not know NumPy's numbers
        for (first, part, file), end in zip(self._files, self._ends, strict=True):
            if first <= row < end:
                found = part.contents(row - first, row - first + 1)
                return file.get(found[0][1]) if found else None
        return None

    @cached_property
    def rows(self) -> _Rows:
        """The live rows that have features: int64 (n,), ascending."""
        self._require_open()
        found: list[int] = []
        for first, part, file in self._files:
            for contents in _contents(part):
                held = file.held([content for _, content in contents])
                found += [first + row for row, content in contents if content in held]
        return np.array(found, np.int64)

    def blocks(self) -> Iterator[tuple[_Rows, _Bytes]]:
        """Yield the descriptors of all live rows that have features, in the order of the rows, some at a time.

        Each block is (rows int64 (n,), descriptors uint8 (n, 128)), 32 of ORB, with the row of each descriptor.
        Damaged ones are left out. A block has some 65,536 descriptors: 9 MB.
        """
        self._require_open()
        rows: list[_Rows] = []
        descriptors: list[_Bytes] = []
        held = 0
        for first, part, file in list(self._files):
            for contents in _contents(part):
                for start in range(0, len(contents), 50):  # pictures, some 70,000 bytes each
                    some = contents[start : start + 50]
                    self._require_open()
                    found = file.several(list(dict.fromkeys(content for _, content in some)))
                    for row, content in some:
                        if content not in found or not len(found[content]):
                            continue
                        each = found[content].descriptors
                        rows.append(np.full(len(each), first + row, np.int64))
                        descriptors.append(each)
                        held += len(each)
                        if held >= _BLOCK:
                            yield np.concatenate(rows), np.concatenate(descriptors)
                            rows, descriptors, held = [], [], 0
        if held:
            yield np.concatenate(rows), np.concatenate(descriptors)

    def is_current(self) -> bool:
        """Return whether no features were added, dropped or made anew since it was opened, by any process.

        It looks at the features alone: `Index.is_current` tells of the rows. Raises IndexFault.
        """
        self._require_open()
        return all(file.is_current() for _, _, file in self._files) and not any(
            os.path.lexists(each / FEATURES_FILE) for each in self._without
        )

    def close(self) -> None:
        """Close the files; not the index."""
        for _, _, each in self._files:
            each.close()
        self._files = []

    def _require_open(self) -> None:
        if not self._files:
            raise Closed(f"these features of {self._index.directory} are closed: open them again")

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _contents(part: Index) -> Iterator[list[tuple[int, bytes]]]:
    """Iterate over (row, content hash) of a part's live rows, some at a time."""
    for start in range(0, len(part.vectors), _ROWS_AT_ONCE):
        yield [(row, content) for row, content, *_ in part.contents(start, start + _ROWS_AT_ONCE)]
