"""Reading an index: a snapshot of its committed rows, searched where they lie."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.arrays import Array
from clipdex.card import ModelCard
from clipdex.errors import IndexDamaged, InvalidArgument
from clipdex.index.manifest import Manifest
from clipdex.index.rows import ROWS_FILE, Failure, KnownFile, Picture, RowStore
from clipdex.index.vectors import map_vectors
from clipdex.search.topk import top_k as exact_top_k

__all__ = ["DEFAULT_TOP_K", "Hit", "Index", "IndexInfo"]

DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class Hit:
    """One answer: the picture's row, its cosine to the query, its path, and what came with it, if anything.

    Bytes of a path that are not UTF-8 stand in `path` as surrogates; `os.fsencode(path)` gives them back.
    """

    row: int
    score: float
    path: str
    metadata: dict[str, Any] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class IndexInfo:
    """What an index holds. failures: by reason. first_commit, last_commit: seconds since 1970, if any."""

    rows: int
    tombstones: int
    failures: dict[str, int]
    bytes_on_disk: int
    first_commit: int | None
    last_commit: int | None


class Index:
    """A read-only view of an index as of the moment it was opened; `refresh` moves it to now.

    Readers never wait for a writer and never see a row that is not committed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._place = -1
        self._open_files()
        try:
            self._look_until_in_place()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> Index:
        """Open an index for reading.

        Raises:
            IndexNotFound: nothing is there.
            IndexFormatError: it is no index, or of a newer format.
            IndexDamaged: the vectors file is shorter than its commit record.
        """
        return cls(Path(directory))

    def refresh(self) -> None:
        """See what has been committed since, and a compacted index in the place of this one."""
        self._look_until_in_place()

    def _open_files(self) -> None:
        try:
            # Held open, so that its number is not given to another directory.
            place = os.open(self.directory, os.O_RDONLY)
        except OSError as exc:
            Manifest.read(self.directory)  # says it better, where nothing is
            raise IndexDamaged(f"{self.directory}: cannot be read: {exc.strerror}") from exc
        try:
            self.manifest = Manifest.read(self.directory)
            self._store = RowStore.open(self.directory / ROWS_FILE, write=False)
        except BaseException:
            os.close(place)
            raise
        self._place = place

    def _look_until_in_place(self) -> None:
        """Take a snapshot whose rows and vectors are of one index, although a compaction may swap it meanwhile."""
        while True:
            try:
                self._look()
            except IndexDamaged:
                if self._in_place():
                    raise
            else:
                if self._in_place():
                    return
            self.close()
            self._open_files()

    def _in_place(self) -> bool:
        """Whether the directory that was opened is still the one at its path."""
        try:
            return os.path.samestat(os.fstat(self._place), os.stat(self.directory))
        except OSError as exc:
            raise IndexDamaged(f"{self.directory}: cannot be read any more: {exc.strerror}") from exc

    def _look(self) -> None:
        rows, dead = self._store.snapshot()
        self._vectors = map_vectors(self.directory, self.manifest, rows)
        self._dead: npt.NDArray[np.int64] = np.array(dead, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._vectors) - len(self._dead)

    @property
    def vectors(self) -> Array:
        """All committed rows, read-only, (rows, D), tombstones included."""
        return self._vectors

    @property
    def tombstones(self) -> npt.NDArray[np.int64]:
        """The dead rows, ascending."""
        return self._dead

    def require(self, card: ModelCard) -> None:
        """Raise FingerprintMismatch unless queries of this model can be compared with the rows."""
        self.manifest.require(card, self.directory)

    def search(self, queries: Array, top_k: int | None = None) -> list[list[Hit]]:
        """The `top_k` pictures nearest to each query, best first; equal scores by row.

        Args:
            queries: (D,) or (Q, D) of a float dtype, each of norm 1.
            top_k: how many hits a query; 5, or all where there are fewer, if not given.

        Raises:
            InvalidArgument: the width of the queries is not the index's, or `top_k` is below 1 or above
                the number of pictures.
        """
        wide = np.atleast_2d(np.asarray(queries))
        if wide.ndim != 2 or wide.shape[1] != self.manifest.embedding_dim:
            raise InvalidArgument(
                f"{self.directory} holds vectors of {self.manifest.embedding_dim} numbers; "
                f"the queries have shape {np.shape(queries)}"
            )
        if not np.isfinite(wide).all():
            raise InvalidArgument("a query holds NaN or infinity")
        wanted = min(DEFAULT_TOP_K, len(self)) if top_k is None else top_k
        if top_k is not None and not 1 <= top_k <= len(self):
            raise InvalidArgument(
                f"top_k is {top_k}; expected 1 to {len(self)}, the number of pictures in {self.directory}"
            )
        scores, rows = exact_top_k(self._vectors, wide.astype(np.float32), wanted, dead=self._dead)
        pictures = self._store.pictures(np.unique(rows).tolist())
        return [
            [self._hit(int(row), float(score), pictures[int(row)]) for score, row in zip(*pair, strict=True)]
            for pair in zip(scores, rows, strict=True)
        ]

    def _hit(self, row: int, score: float, picture: Picture) -> Hit:
        try:
            metadata = None if picture.metadata is None else json.loads(picture.metadata)
        except ValueError as exc:
            raise IndexDamaged(
                f"{self.directory}: the metadata of row {row} is not JSON; see clipdex verify"
            ) from exc
        return Hit(row, score, os.fsdecode(picture.path), metadata)

    def live_paths(self) -> list[tuple[int, bytes]]:
        """(row, path) of every live row, by row."""
        return self._store.live_paths(len(self._vectors))

    def picture(self, row: int) -> Picture:
        """What a row is a picture of. Raises InvalidArgument if there is no such row."""
        found = self._store.pictures([row]) if 0 <= row < len(self._vectors) else {}
        if row not in found:
            raise InvalidArgument(f"{self.directory} has no row {row}; expected 0 to {len(self._vectors) - 1}")
        return found[row]

    def known(self, path: bytes) -> KnownFile | None:
        """What the index knows of a path, if anything."""
        return self._store.known(path)

    def info(self) -> IndexInfo:
        """Counts, sizes and dates."""
        first, last = self._store.commit_times()
        files = (self.directory / name for name in os.listdir(self.directory))
        return IndexInfo(
            rows=len(self),
            tombstones=len(self._dead),
            failures=self._store.failure_counts(),
            bytes_on_disk=sum(file.stat().st_blocks * 512 for file in files if file.is_file()),
            first_commit=first,
            last_commit=last,
        )

    def failures(self) -> list[Failure]:
        """The ledger: every file that could not be indexed, by path."""
        return self._store.failures()

    def close(self) -> None:
        """Close the files. Arrays taken from `vectors` stay valid."""
        if self._place >= 0:
            self._store.close()
            os.close(self._place)
            self._place = -1

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
