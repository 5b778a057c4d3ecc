"""Finding the pictures that a picture shows a part of, or that show a part of it: neighbours, votes, geometry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from clipdex.base.arguments import is_count
from clipdex.base.arrays import Array
from clipdex.base.errors import IndexFault, InvalidArgument
from clipdex.base.item_paths import id_of_text, path_text
from clipdex.base.records import Picture
from clipdex.features.candidates import NEIGHBOURS, Described, likely, votes
from clipdex.features.copies import Copies, nearest_apart
from clipdex.features.decision import DEFAULT_MIN_INLIERS, PARTS, SAME, Fit, Rule
from clipdex.features.geometry import fit
from clipdex.features.neighbours import Neighbours, StoredNeighbours
from clipdex.features.pairs import MOST_COMPARED
from clipdex.features.store import FeatureStore
from clipdex.features.transforms import corners, mapped
from clipdex.features.watched import Watched
from clipdex.index.hits import metadata_of, no_record
from clipdex.index.reader import Index
from clipdex.looks.local_features import LocalFeatures, Recipe, extract
from clipdex.model.images import ImageSource, open_image
from clipdex.search.selection import flags_of

__all__ = [
    "DEFAULT_MIN_INLIERS",
    "DEFAULT_TOP_K",
    "WITHIN",
    "Match",
    "Matcher",
    "Verified",
    "best_rows",
    "check_numbers",
    "match",
    "mirrored",
    "verify_rows",
]

DEFAULT_TOP_K = 5
WITHIN = 1000  # pictures that best match the text of `within`
CANDIDATES = 32  # rows with the most votes, whose geometry is looked at
_LEAST_CANDIDATES = 4  # times top_k

Source: TypeAlias = "ImageSource | LocalFeatures"


@dataclass(frozen=True, eq=False)
class Verified:
    """A row whose points lie as the query's do. mirrored: the query has left and right exchanged."""

    row: int
    fit: Fit
    size: tuple[int, int]
    query_size: tuple[int, int]
    mirrored: bool

    @property
    def transform(self) -> npt.NDArray[np.float64]:
        """float64 (3, 3), from the query's pixels, as it was given, to the picture's."""
        if not self.mirrored:
            return self.fit.transform
        flip = np.diag([-1.0, 1.0, 1.0])
        flip[0, 2] = self.query_size[0] - 1
        return np.asarray(self.fit.transform @ flip, np.float64)

    @property
    def region(self) -> npt.NDArray[np.float64]:
        """Where the corners of the query are in the picture, in pixels, float64 (4, 2); they may lie outside it.

        From the query's upper left clockwise, which is anticlockwise here if it is mirrored.
        """
        return mapped(self.transform, corners(self.query_size))

    @property
    def fractions(self) -> npt.NDArray[np.float64]:
        """`region` in shares of the picture's width and height: 1, 1 is its lower right corner."""
        return np.asarray((self.region + 0.5) / self.size, np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "inliers": self.fit.inliers,
            "share": round(self.fit.share, 4),
            "contained": round(self.fit.contained, 4),
            "spread": round(self.fit.spread, 4),
            "inlier_ratio": round(self.fit.inlier_ratio, 4),
            "mirrored": self.mirrored,
            "model": self.fit.model,
            "transform": self.transform.tolist(),
            "region": np.round(self.region, 2).tolist(),
            "region_fractions": np.round(self.fractions, 5).tolist(),
            "size": list(self.size),
        }


@dataclass(frozen=True, eq=False)
class Match:
    """A picture of an index that a query shows a part of, or that shows a part of it.

    path, picture, metadata: as a `Hit` has them. inliers: points at different places that agree with the
    transform. verified: the geometry: `transform`, `region`, `fractions`, `mirrored`.
    """

    row: int
    path: str
    picture: Picture
    verified: Verified
    metadata: dict[str, Any] | None = None

    @property
    def id(self) -> str | None:
        """The id of an item that was added by id; None for a picture of a folder or another source."""
        return id_of_text(self.path)

    @property
    def inliers(self) -> int:
        """Points at different places of both pictures that agree with the transform."""
        return self.verified.fit.inliers

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"path": self.path, "row": self.row} | self.verified.as_dict()


class Matcher:
    """An open index's local features, ready for many queries; close it. Safe to share between threads.

    It sees the index as of when it was made. faults: why a file of neighbours is not used. exact: how many
    pictures are compared exactly, since no such file has them.

    Raises:
        NoLocalFeatures: the index has none.
        IndexFault: they cannot be read.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.store = FeatureStore.open(index)
        try:
            self._neighbours = StoredNeighbours(index, self.store)
        except BaseException:
            self.store.close()
            raise

    @property
    def recipe(self) -> Recipe:
        """How the features of pictures and queries are made."""
        return self.store.recipe

    @property
    def faults(self) -> list[str]:
        """Why files of neighbours are not used, a sentence each."""
        return self._neighbours.faults

    @property
    def exact(self) -> int:
        """The number of pictures that are compared exactly."""
        return self._neighbours.exact

    def match(
        self,
        query: Source,
        top_k: int = DEFAULT_TOP_K,
        *,
        min_inliers: int = DEFAULT_MIN_INLIERS,
        parts: bool = False,
        where: str | Sequence[int] | Array | None = None,
        params: Mapping[str, Any] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> list[Match]:
        """Find the pictures that share a region with a query, those with the most inliers first; see `match`.

        check: called now and then, such as between two pictures; what it raises ends the match.
        """
        check_numbers(top_k, min_inliers)
        if self.store.generation is not self.index.generation:
            raise IndexFault(f"{self.index.directory} was compacted since: open its matcher again")
        allowed = self.index.allowed(where, params, check)
        live = flags_of(len(self.index.vectors), allowed)
        live[self.index.tombstones] = False
        asked = described(query, self.recipe)
        rule = PARTS if parts else SAME
        watched = Watched(self._neighbours, self.store, check)
        found = matches(watched, watched, asked, top_k, min_inliers=min_inliers, rule=rule, live=live)
        return self.named(found)

    def named(self, found: Sequence[Verified]) -> list[Match]:
        """Add the records of the pictures. Raises IndexDamaged."""
        pictures = self.index.pictures([each.row for each in found])
        for each in found:
            if each.row not in pictures:
                raise no_record(self.index.directory, each.row)
        place = self.index.directory
        return [
            Match(
                each.row,
                path_text(pictures[each.row].path),
                pictures[each.row],
                each,
                metadata_of(each.row, pictures[each.row], place),
            )
            for each in found
        ]

    def is_current(self) -> bool:
        """Return whether neither pictures nor features have changed since it was made. Raises IndexFault."""
        return self.index.is_current() and self.store.is_current() and self._neighbours.is_current()

    def close(self) -> None:
        """Close the features; not the index."""
        self.store.close()

    def __enter__(self) -> Matcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def match(
    index: Index,
    query: Source,
    top_k: int = DEFAULT_TOP_K,
    *,
    min_inliers: int = DEFAULT_MIN_INLIERS,
    parts: bool = False,
    where: str | Sequence[int] | Array | None = None,
    params: Mapping[str, Any] | None = None,
) -> list[Match]:
    """Find the pictures of an index that show the same thing as a query: a crop, a screenshot, a photo of a print.

    The answer is empty if there are none: unlike a search, a match is a statement. For many queries, keep a
    `Matcher`.

    Args:
        query: a picture, as `embed_images` takes it, or local features of the index's recipe.
        top_k: the most pictures to return (default 5).
        min_inliers: the fewest points that must agree (default 8). Fewer find smaller crops, and more that is not
            there.
        parts: also pictures that have only a part in common with the query, such as an icon or a heading, while
            the rest differs.
        where, params: only pictures that meet a condition, or these rows, as `Index.search` takes them.

    Raises:
        NoLocalFeatures: the index has none.
        IndexFault: they cannot be read.
        MissingExtra: OpenCV is not installed.
        InvalidArgument: a number is out of range, or the condition is not valid.
        ImageError: the query cannot be decoded.
    """
    with Matcher(index) as matcher:
        return matcher.match(query, top_k, min_inliers=min_inliers, parts=parts, where=where, params=params)


def described(query: Source, recipe: Recipe) -> LocalFeatures:
    """Make the features of a query, unless it is features. Raises ImageError, InvalidArgument, MissingExtra."""
    if isinstance(query, LocalFeatures):
        if query.descriptors.shape != (len(query), recipe.width):
            raise InvalidArgument(f"the query's descriptors are not those of {recipe.kind}, which the index has")
        return query
    image = open_image(query)
    return extract(image, kind=recipe.kind, most=recipe.most, side=recipe.side)


def matches(
    neighbours: Neighbours,
    store: Described,
    query: LocalFeatures,
    top_k: int,
    *,
    min_inliers: int = DEFAULT_MIN_INLIERS,
    rule: Rule = SAME,
    live: npt.NDArray[np.bool_] | None = None,
) -> list[Verified]:
    """Find the verified rows for a query's features, most inliers first; the mirrored query if there are none.

    live: bool (rows,), those that may be found; all if not given.
    """
    most = max(CANDIDATES, _LEAST_CANDIDATES * top_k)
    for asked, flipped in sides_of(query):
        found = matches_as_is(neighbours, store, asked, most, min_inliers, rule, live, flipped)
        if found:
            return found[:top_k]
    return []


def sides_of(query: LocalFeatures) -> list[tuple[LocalFeatures, bool]]:
    """The queries to ask for one: as it is, and mirrored; of ORB, a mirrored one's descriptors do not follow."""
    as_is = (query, False)
    return [as_is, (mirrored(query), True)] if query.descriptors.shape[1] == 128 else [as_is]


def matches_as_is(
    neighbours: Neighbours,
    store: Described,
    query: LocalFeatures,
    most: int,
    min_inliers: int = DEFAULT_MIN_INLIERS,
    rule: Rule = SAME,
    live: npt.NDArray[np.bool_] | None = None,
    flipped: bool = False,
) -> list[Verified]:
    """Find the verified rows for one side of a query, most inliers first, among the `most` with the most votes.

    Exact copies of a picture have the votes of one, and follow it: up to `most` of them.

    flipped: `query` is the mirrored one.
    """
    copies = Copies(live)
    asked = query.descriptors[:MOST_COMPARED]
    found = nearest_apart(neighbours, asked, NEIGHBOURS, copies.alike, copies.one_id)
    rows = votes(found, live)[:most].tolist()
    some: list[Verified | None] = []
    for row, features in likely(query, found[1], rows, store):
        first = verified(query, row, features, min_inliers, rule, flipped)
        some.append(first)
        for copy in copies.of(row)[:most]:
            theirs = store.of(copy)
            if theirs is None:
                continue
            if theirs.to_bytes() != features.to_bytes():
                some.append(verified(query, copy, theirs, min_inliers, rule, flipped))
            elif first is not None:
                some.append(replace(first, row=copy))
    return _ranked(some)


def verify_rows(
    query: LocalFeatures,
    rows: Iterable[int],
    store: Described,
    *,
    min_inliers: int = DEFAULT_MIN_INLIERS,
    rule: Rule = SAME,
    flipped: bool = False,
) -> list[Verified]:
    """Compare a query with the pictures of rows -> those that agree, most inliers first; equal ones as in `rows`.

    flipped: `query` is the mirrored one.
    """
    held = ((row, store.of(row)) for row in rows)
    return _ranked(
        verified(query, row, features, min_inliers, rule, flipped)
        for row, features in held
        if features is not None
    )


def verified(
    query: LocalFeatures, row: int, features: LocalFeatures, min_inliers: int, rule: Rule, flipped: bool
) -> Verified | None:
    """Compare a query with the picture of a row; None if they do not agree."""
    how = fit(query, features, rule=rule, least=min_inliers)
    return None if how is None else Verified(int(row), how, features.size, query.size, flipped)


def _ranked(found: Iterable[Verified | None]) -> list[Verified]:
    return sorted((each for each in found if each is not None), key=lambda each: -each.fit.inliers)


def mirrored(features: LocalFeatures) -> LocalFeatures:
    """Compute the local features of the picture with left and right exchanged from its own: of SIFT alone."""
    points = features.points.copy()
    points[:, 0] = features.size[0] - 1 - points[:, 0]
    angles = (np.pi - features.angles) % (2 * np.pi)
    # OpenCV's layout: 4 × 4 cells along and across the point's direction, 8 directions each.
    cells = features.descriptors.reshape(-1, 4, 4, 8)[:, ::-1]
    turned = cells[:, :, :, (-np.arange(8)) % 8]
    return LocalFeatures(
        points,
        features.scales,
        angles.astype(np.float32),
        np.ascontiguousarray(turned.reshape(-1, 128)),
        features.size,
    )


def best_rows(
    index: Index,
    vector: Array,
    count: int,
    where: str | Sequence[int] | Array | None = None,
    params: Mapping[str, Any] | None = None,
    check: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.int64]:
    """Find the rows of the `count` pictures nearest to a vector, ascending: int64. Raises as `Index.search`."""
    (hits,) = index.search(vector, count, where=where, params=params, check=check)
    return np.array(sorted(hit.row for hit in hits), np.int64)


def check_numbers(top_k: int, min_inliers: int) -> None:
    """Raise InvalidArgument if one of the numbers of `match` is out of range."""
    if not is_count(top_k, 1):
        raise InvalidArgument(f"top_k is {top_k!r}; expected 1 or more")
    if not is_count(min_inliers, 4):
        raise InvalidArgument(f"min_inliers is {min_inliers!r}; expected 4 or more")
