"""Pairs of pictures one of which shows a part of the other, among n², by their local features.

Each picture is looked up as `clipdex match` looks up a query, as it is and mirrored; those with the most votes are
compared with it point by point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from clipdex.apps.duplicates.candidate_pairs import in_threads
from clipdex.apps.duplicates.groups import Placement
from clipdex.features.build_neighbours import FEWEST
from clipdex.features.candidates import NEIGHBOURS, votes
from clipdex.features.copies import nearest_apart
from clipdex.features.decision import DEFAULT_MIN_INLIERS, SAME
from clipdex.features.matching import Verified, mirrored, verify_rows
from clipdex.features.neighbours import POINTS_A_ROW, Found, StoredNeighbours
from clipdex.features.store import FeatureStore
from clipdex.features.transforms import mapped, overlap
from clipdex.index.reader import Index

__all__ = ["LocalPairs"]

_ASKED = 300  # points of a picture, the most important ones, that are looked up
_COMPARED = 16  # pictures with the most votes, for each
_LEAST_VOTES = 0.02  # for each point looked up; a point has one vote at most
_AT_ONCE = 8

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
_Pair = tuple[int, int]


class _Agreement(NamedTuple):
    """How a picture lies in another one. query: its number. share: of the points, those that agree."""

    query: int
    verified: Verified

    @property
    def share(self) -> float:
        return self.verified.fit.share


class LocalPairs:
    """The local features of an index, to find and compare pairs; close it.

    A picture is a number here: number i has the content of all rows `members[i]`, and the size `sizes[i]`.

    Raises:
        IndexFault: the index has no local features, or too many that no file of neighbours has.
    """

    def __init__(
        self, index: Index, members: Sequence[Sequence[int]], sizes: Rows, min_share: float = SAME.min_share
    ) -> None:
        self._members, self._pixels = members, sizes.prod(axis=1)
        self._rule = replace(SAME, min_share=min_share)
        self._number = np.full(len(index.vectors), -1, np.int64)
        for number, rows in enumerate(members):
            self._number[list(rows)] = number
        self._agree: dict[_Pair, _Agreement] = {}
        self._partners: dict[int, list[int]] = {}
        self._store = FeatureStore.open(index)
        try:
            self._neighbours = StoredNeighbours(index, self._store)
            self._neighbours.hold(FEWEST)
        except BaseException:
            self._store.close()
            raise

    def find(self, progress: Progress | None = None) -> Rows:
        """Find the pairs that agree: int64 (m, 2), each once, the smaller number first.

        The work grows with the number of pictures times that of votes looked at, not with its square.
        """
        count = len(self._members)

        def tell(half: int, done: float) -> None:
            if progress is not None:
                progress(int(count * (half + done) / 2), count)

        voted, looked_up = [np.empty(0, np.int64)], 0
        for some in in_threads(self._candidates, _blocks(range(count))):
            voted.append(some)
            looked_up += _AT_ONCE
            tell(0, min(1.0, looked_up / count))
        candidates, compared = np.unique(np.concatenate(voted)), 0
        for found in in_threads(self._compared, _blocks(self._pairs_of(candidates))):
            for pair, agreement in found:
                self._keep(pair, agreement)
            compared += _AT_ONCE
            tell(1, min(1.0, compared / len(candidates)))
        tell(1, 1.0)
        return np.array(sorted(self._agree), np.int64).reshape(-1, 2)

    def shares(self, one: int, others: Rows) -> Floats:
        """Return the share of the points of `one` and each of m others that agree: float32 (m,), 0 for no pair.

        Two that were no candidates are compared now if they agree with the same one of `others`.
        """
        asked = set(others.tolist())
        known = [other for other in self._partners.get(one, ()) if other in asked]
        near = {far for other in known for far in self._partners[other] if far in asked}
        for far in sorted(near.difference(known)):
            for pair, agreement in self._compared([(_pair(one, far), 3)]):
                self._keep(pair, agreement)
        found = (self._agree.get(_pair(one, other)) for other in others.tolist())
        return np.array([0.0 if each is None else each.share for each in found], np.float32)

    def placement(self, keeper: int, other: int) -> Placement:
        """Return how two pictures that agree lie to each other."""
        query, verified = self._agree[_pair(keeper, other)]
        transform, sizes = verified.transform, (verified.query_size, verified.size)
        there = overlap(transform, *sizes)
        here = mapped(np.linalg.inv(transform), there)
        of_query, of_found = (
            tuple((float(x), float(y)) for x, y in np.clip((region + 0.5) / size, 0, 1))
            for region, size in zip((here, there), sizes, strict=True)
        )
        regions = (of_query, of_found) if query == keeper else (of_found, of_query)
        return Placement(verified.fit.inliers, verified.mirrored, *regions)

    def close(self) -> None:
        """Close the features; not the index."""
        self._store.close()

    def _keep(self, pair: _Pair, agreement: _Agreement) -> None:
        self._agree[pair] = agreement
        for one, other in (pair, pair[::-1]):
            self._partners.setdefault(one, []).append(other)

    def _candidates(self, numbers: Sequence[int]) -> Rows:
        """Look pictures up -> pairs to compare, and on which side: int64 (m,), as `_pairs_of` takes them."""
        found: list[int] = []
        for number in numbers:
            features = self._store.of(self._members[number][0])
            if features is None or not len(features):
                continue
            asked = {1: features.descriptors[:_ASKED]}
            if self._store.kind == "sift":
                asked[2] = mirrored(features).descriptors[:_ASKED]
            for side, descriptors in asked.items():
                for other in self._voted(descriptors, number):
                    low, high = _pair(number, other)
                    found.append((low * len(self._members) + high) * 4 + side)
        return np.array(found, np.int64)

    def _pairs_of(self, candidates: Rows) -> Iterator[tuple[_Pair, int]]:
        """Yield each pair of sorted candidates, and its sides: 1 as they are, 2 mirrored, 3 both."""
        pairs, sides = candidates // 4, candidates % 4
        starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        for at, many in zip(starts, np.diff(np.append(starts, len(pairs))), strict=True):
            low, high = divmod(int(pairs[at]), len(self._members))
            yield (low, high), int(sides[at : at + many].sum())

    def _voted(self, descriptors: npt.NDArray[np.uint8], own: int) -> list[int]:
        """Return the numbers of other pictures with the most votes, the best first."""
        distances, ids = nearest_apart(
            self._neighbours, descriptors, NEIGHBOURS, self._by_content, self._by_content
        )
        numbers = ids // POINTS_A_ROW
        ids = np.where((numbers == own) | (numbers >= len(self._members)), -1, ids)
        voted: list[int] = votes((distances, ids), fewest=_LEAST_VOTES * len(descriptors)).tolist()
        return voted[:_COMPARED]

    def _by_content(self, found: Found) -> Rows:
        """Number the points of neighbours by the pictures' numbers; those of others after all of these."""
        rows, points = np.divmod(found[1], POINTS_A_ROW)
        numbers = np.where(rows < 0, -1, self._number[rows])
        numbers = np.where((rows >= 0) & (numbers < 0), rows + len(self._members), numbers)
        return np.asarray(numbers * POINTS_A_ROW + np.where(rows < 0, 0, points), np.int64)

    def _compared(self, candidates: Sequence[tuple[_Pair, int]]) -> list[tuple[_Pair, _Agreement]]:
        found = []
        for pair, sides in candidates:
            query, other = sorted(pair, key=lambda number: (self._pixels[number], number))
            features = self._store.of(self._members[query][0])
            if features is None:
                continue
            options: dict[str, Any] = {"min_inliers": DEFAULT_MIN_INLIERS, "rule": self._rule}
            rows = [self._members[other][0]]
            agreeing = verify_rows(features, rows, self._store, **options) if sides & 1 else []
            if not agreeing and sides & 2 and self._store.kind == "sift":
                agreeing = verify_rows(mirrored(features), rows, self._store, flipped=True, **options)
            found += [(pair, _Agreement(query, each)) for each in agreeing]
        return found


def _pair(one: int, other: int) -> _Pair:
    return (one, other) if one < other else (other, one)


def _blocks(items: Any) -> Any:
    """Cut what is iterated over into lists of a few."""
    left = iter(items)
    while some := list(islice(left, _AT_ONCE)):
        yield some
