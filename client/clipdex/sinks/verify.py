"""Comparing a collection with the index that was pushed into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipdex.base.errors import SinkError
from clipdex.index.reader import Index
from clipdex.sinks.conditions import parse_condition
from clipdex.sinks.payloads import checked_condition, digest_of, point_id
from clipdex.sinks.push import described, unit
from clipdex.sinks.sink import Field, Sink

__all__ = ["Verified", "verify"]

_TOP_K = 10
_AT_ONCE = 200
_SAME = 1e-5  # of a number of a unit vector: databases may normalise again


@dataclass(frozen=True)
class Verified:
    """What a comparison found.

    pictures: number of pictures in the index. points: number of points in the collection. sampled: number of
    pictures whose point was read. different: paths of those whose point is missing or not the same.
    queries: number of queries, pictures of the index. recall: mean share of the index's ten best that the
    collection finds. filtered_recall: the same with a condition; None without one.
    """

    pictures: int
    points: int
    sampled: int
    different: tuple[str, ...]
    queries: int
    recall: float
    filtered_recall: float | None

    @property
    def is_same(self) -> bool:
        """Whether as many points are there as pictures, and none that was read differs."""
        return self.pictures == self.points and not self.different


def verify(
    index: Index,
    sink: Sink,
    *,
    sample: int = 1_000,
    queries: int = 100,
    condition: str | None = None,
    seed: int = 0,
) -> Verified:
    """Compare the count, a random sample of the points, and the answers to queries.

    Raises:
        SinkError: there is no such collection, or it cannot be read.
        FingerprintMismatch: the collection has vectors of another model.
    """
    found = described(sink)
    if found is None:
        raise SinkError(f"{sink.place} does not exist; push an index into it first")
    found.require(index.manifest, sink.place)
    rng = np.random.default_rng(seed)
    live = np.setdiff1d(np.arange(len(index.vectors)), index.tombstones, assume_unique=True)
    some = np.sort(rng.choice(live, min(sample, len(live)), replace=False))
    different: list[str] = []
    for start in range(0, len(some), _AT_ONCE):
        rows = some[start : start + _AT_ONCE]
        pictures = index.pictures(rows.tolist())
        vectors = unit(index.vectors[rows])
        points = sink.fetch([point_id(pictures[row].path) for row in rows.tolist()])
        for i, row in enumerate(rows.tolist()):
            point = points.get(point_id(pictures[row].path))
            if (
                point is None
                or point.payload.get("digest") != digest_of(pictures[row])
                or not np.allclose(point.vector, vectors[i], atol=_SAME)
            ):
                different.append(str(pictures[row].path, "utf-8", "backslashreplace"))
    asked = rng.choice(live, min(queries, len(live)), replace=False) if len(live) else live
    recall = _recall(index, sink, asked.tolist(), None, found.fields)
    filtered = None if condition is None else _recall(index, sink, asked.tolist(), condition, found.fields)
    return Verified(len(index), sink.count(), len(some), tuple(different), len(asked), recall, filtered)


def _recall(index: Index, sink: Sink, asked: list[int], condition: str | None, fields: Sequence[Field]) -> float:
    """Return the mean share of the best by the index that are among as many of the collection."""
    shares = []
    wanted = None if condition is None else checked_condition(parse_condition(condition), fields)
    for row in asked:
        vector = unit(index.vectors[[row]])[0]
        best = index.search(vector, _TOP_K, where=condition)[0]
        if best:
            rows = [hit.row for hit in best]
            pictures = index.pictures(rows)
            expected = {point_id(pictures[each].path) for each in rows}
            got = {hit.id for hit in sink.query(vector, len(best), wanted)}
            shares.append(len(expected & got) / len(expected))
    return float(np.mean(shares)) if shares else 1.0
