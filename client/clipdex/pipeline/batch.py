"""The files of one tray on their way to rows: some need the model, others take an existing row's vector."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from clipdex.base.arrays import Array, Pixels, Vectors
from clipdex.base.records import Picture

__all__ = ["Batch"]


class Batch:
    """Pictures in the order of their files, with the sources of their vectors."""

    def __init__(self, tray: Pixels) -> None:
        """tray: uint8 (rows, S, S, 3)."""
        self.pictures: list[Picture] = []
        self._tray = tray
        self._at: list[int] = []  # positions in `pictures` that need the model
        self._slots: list[int] = []  # their places in the tray
        self._copies: dict[int, int] = {}  # position -> row with the same content

    def embed(self, picture: Picture, slot: int) -> None:
        """Add a picture whose pixels are in a slot of the tray."""
        self._at.append(len(self.pictures))
        self._slots.append(slot)
        self.pictures.append(picture)

    def copy(self, picture: Picture, row: int) -> None:
        """Add a picture that has the content of a row in the index."""
        self._copies[len(self.pictures)] = row
        self.pictures.append(picture)

    @property
    def recognised(self) -> int:
        """The number of pictures that do not need the model."""
        return len(self._copies)

    def pixels(self) -> Pixels:
        """Return the n pictures that need the model: uint8 (n, S, S, 3), the first n slots of the tray.

        Slots of files that failed or need no model are filled with pictures from further back, so that a request
        is contiguous, and only those few pictures are copied.
        """
        count = len(self._slots)
        holes = sorted(set(range(count)).difference(self._slots))
        behind = [k for k, slot in enumerate(self._slots) if slot >= count]
        for hole, k in zip(holes, behind, strict=True):
            self._tray[hole] = self._tray[self._slots[k]]
            self._slots[k] = hole
        return self._tray[:count]

    def drop(self, rows: Collection[int]) -> list[Picture]:
        """Remove the pictures in these rows of `pixels()` -> them; the other rows keep their numbers."""
        gone = {position for position, slot in zip(self._at, self._slots, strict=True) if slot in rows}
        dropped = [self.pictures[position] for position in sorted(gone)]
        kept = [position for position in range(len(self.pictures)) if position not in gone]
        new = {old: position for position, old in enumerate(kept)}
        self.pictures = [self.pictures[position] for position in kept]
        self._slots = [slot for slot in self._slots if slot not in rows]
        self._at = [new[position] for position in self._at if position not in gone]
        self._copies = {new[position]: row for position, row in self._copies.items()}
        return dropped

    def vectors(self, answers: Vectors | None, row_vector: Callable[[int], Array], dim: int) -> Vectors:
        """Return float32 (len(pictures), dim), given the model's answers for the rows of `pixels()`, (n, dim)."""
        count = len(self.pictures)
        if answers is not None and self._at == self._slots == list(range(count)):
            return answers  # as nearly always
        vectors = np.empty((count, dim), dtype=np.float32)
        if answers is not None:
            vectors[self._at] = answers[self._slots]
        for position, row in self._copies.items():
            vectors[position] = row_vector(row)
        return vectors
