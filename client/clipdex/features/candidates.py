"""Which rows a query may match, by its nearest descriptors: how many are there, and whether their places fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipdex.features.geometry import roughly_agreeing
from clipdex.features.neighbours import POINTS_A_ROW, Found
from clipdex.features.pairs import Pairs
from clipdex.looks.local_features import LocalFeatures

__all__ = ["NEIGHBOURS", "Described", "likely", "votes"]

NEIGHBOURS = 12  # of each point of a query
_LEAST_VOTES = 0.08  # of those of the first row
_ALWAYS = 4  # rows that stay however few their votes are: a copy of the query has very many
_LIKELY = 2  # the first rows, wherever their points are
_LEAST_AGREEING = 3  # points of a query whose neighbours in another row lie to each other as they do

_Rows = npt.NDArray[np.int64]


class Described(Protocol):
    """What has the local features of rows, as `FeatureStore` has."""

    def of(self, row: int) -> LocalFeatures | None:
        """Return the features of a row, or None."""
        ...


def votes(
    found: Found, live: npt.NDArray[np.bool_] | None = None, *, fewest: float | None = None
) -> npt.NDArray[np.int64]:
    """Rank rows by the neighbours of a query's points -> int64 (n,), the row with the most votes first.

    Rows with fewer votes than `fewest` are left out; with few beside the first, if it is not given, but for the
    first four.

    A point votes once for a row, by how much nearer its neighbour there is than the farthest that was found. A
    descriptor that many points are near to, such as one of many like bricks, shares one vote among them.
    """
    distances, ids = found
    none = np.empty(0, np.int64)
    if not ids.size:
        return none
    rows = np.where(ids < 0, -1, ids // POINTS_A_ROW)
    farthest = np.where(ids < 0, -np.inf, distances).max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        weight = np.where(farthest > 0, 1 - np.sqrt(np.maximum(distances, 0) / farthest), 0)
    weight = np.where(ids < 0, 0, weight + 0.02)
    good = ids >= 0
    if live is not None:
        good &= (rows >= 0) & (rows < len(live))
        good[good] = live[rows[good]]
    point = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)[good]
    rows, ids, weight = rows[good], ids[good], weight[good]
    if not len(rows):
        return none
    _, which, times = np.unique(ids, return_inverse=True, return_counts=True)
    weight = weight / np.sqrt(times[which])
    # The nearest of each point and row: columns are nearest first, and `unique` keeps the first.
    _, first = np.unique(point * (rows.max() + 1) + rows, return_index=True)
    candidates, which = np.unique(rows[first], return_inverse=True)
    totals = np.bincount(which, weights=weight[first])
    order = np.argsort(-totals, kind="stable")
    if fewest is None:
        few = totals[order] < _LEAST_VOTES * totals[order[0]]
        few[:_ALWAYS] = False
    else:
        few = totals[order] < fewest
    return np.asarray(candidates[order[~few]], np.int64)


def likely(
    query: LocalFeatures, ids: _Rows, rows: Sequence[int], store: Described
) -> Iterator[tuple[int, LocalFeatures]]:
    """Yield those of some rows in which the neighbours of a query's points lie to each other as these do.

    The first two are yielded in any case: where many rows have much the same, few of the neighbours are in one.

    ids: int64 (n, k), of the neighbours that were found. rows: those with the most votes, the best first. -> rows
    and their features.
    """
    flat = ids.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.array(rows, np.int64) * POINTS_A_ROW)
    ends = np.searchsorted(flat[order], (np.array(rows, np.int64) + 1) * POINTS_A_ROW)
    for place, (row, start, end) in enumerate(zip(rows, starts.tolist(), ends.tolist(), strict=True)):
        if place >= _LIKELY and end - start < _LEAST_AGREEING:
            continue
        features = store.of(row)
        if features is None:
            continue
        at = order[start:end]
        points = flat[at] % POINTS_A_ROW
        there = points < len(features)
        pairs = Pairs(at[there] // ids.shape[1], points[there])
        if place < _LIKELY or roughly_agreeing(query, features, pairs) >= _LEAST_AGREEING:
            yield row, features
