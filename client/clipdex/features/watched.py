"""Neighbours and features that many uses of take long, so that whoever waits for them may leave."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clipdex.features.neighbours import Found, StoredNeighbours
from clipdex.features.store import FeatureStore
from clipdex.looks.local_features import LocalFeatures

__all__ = ["Watched"]


class Watched:
    """The neighbours of an index and the features of its rows; a call before each use of them may end the work."""

    def __init__(self, neighbours: StoredNeighbours, store: FeatureStore, check: Callable[[], None]) -> None:
        self._neighbours, self._store, self._check = neighbours, store, check

    def search(self, descriptors: npt.NDArray[np.uint8], k: int) -> Found:
        """Find the k nearest; see `Neighbours`. Raises what the call raises."""
        self._check()
        return self._neighbours.search(descriptors, k, self._check)

    def of(self, row: int) -> LocalFeatures | None:
        """Return the features of a row, or None. Raises what the call raises."""
        self._check()
        return self._store.of(row)
