"""Pairs of points of two pictures that look alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.looks.local_features import LocalFeatures

__all__ = ["MOST_COMPARED", "Pairs", "numbers", "pairs_of", "unit_of"]

MOST_COMPARED = 2000  # points of a picture, the most distinctive: the memory grows with the square
_MOST_PAIRS = 1000
_SMALL = 1024.0
_LARGEST = 0.81  # of the squared distance to the second nearest: Lowe's ratio, 0.9

_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of points of two pictures that look alike: rows of their points, int64 (m,) each."""

    query: _Rows
    found: _Rows

    def __len__(self) -> int:
        return len(self.query)


def numbers(descriptors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Turn descriptors into numbers whose squared Euclidean distance is theirs; of ORB, bits into 0 and 1."""
    if descriptors.shape[1] == 32:
        return np.unpackbits(descriptors, axis=1).astype(np.float32)
    return descriptors.astype(np.float32)


def pairs_of(query: LocalFeatures, found: LocalFeatures) -> Pairs:
    """Pair the points that are each other's nearest by their descriptors and clearly nearer than the second."""
    none = np.empty(0, np.int64)
    if len(query) < 2 or len(found) < 2:
        return Pairs(none, none)
    a, b = numbers(query.descriptors[:MOST_COMPARED]), numbers(found.descriptors[:MOST_COMPARED])
    near = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)[None] - 2 * (a @ b.T)
    best = near.argmin(axis=1)
    mutual = np.flatnonzero(near.argmin(axis=0)[best] == np.arange(len(a)))
    best, near = best[mutual], near[mutual]
    least = near[np.arange(len(mutual)), best]
    # SIFT may describe one place twice; the second of a place is no rival.
    places = found.points[:MOST_COMPARED]
    near[_apart(places[best], places) < (2.0 * unit_of(found)) ** 2] = np.inf
    good = np.flatnonzero(least <= _LARGEST * near.min(axis=1))[:_MOST_PAIRS]
    return Pairs(mutual[good], best[good].astype(np.int64))


def unit_of(features: LocalFeatures) -> float:
    """Return how many of a picture's pixels are one if its longer side is made to have 1,024."""
    return max(1.0, max(features.size) / _SMALL)


def _apart(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Squared distances: (n, 2), (m, 2) -> (n, m)."""
    across, down = (one[:, None, axis] - other[None, :, axis] for axis in (0, 1))
    across *= across
    down *= down
    return across + down  # type: ignore[no-any-return]
