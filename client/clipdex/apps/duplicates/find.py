"""Find the duplicates of an index: by content, by look, by meaning, or by what they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from clipdex.apps.duplicates.candidate_pairs import candidate_pairs
from clipdex.apps.duplicates.groups import (
    Duplicate,
    DuplicateGroup,
    Placement,
    close_pairs,
    components,
    cosines,
    keepers_first,
    stars,
)
from clipdex.apps.duplicates.local_pairs import LocalPairs
from clipdex.base.errors import InvalidArgument
from clipdex.base.item_paths import path_text
from clipdex.features.decision import SAME
from clipdex.index.reader import Index
from clipdex.looks.compare import MIN_SIMILARITY, similarities
from clipdex.looks.frequencies import Looks
from clipdex.search.cosines import agree

__all__ = ["KINDS", "MIN_COSINE", "Duplicates", "find_duplicates"]

KINDS = ("exact", "near", "semantic", "local")
MIN_COSINE = 0.95

_ROWS_AT_ONCE = 65_536

Rows = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Duplicates:
    """The duplicates found. groups: sorted by their keeper's row. pictures: the number compared.

    unsigned: the number of those that have no perceptual signature, so that only their bytes could be compared.
    """

    groups: list[DuplicateGroup]
    pictures: int
    unsigned: int


@dataclass(frozen=True)
class _Classes:
    """The live rows of an index by content. rows: (k,), the first row of each content. members: all its rows.

    sizes: (k, 2), width and height. signatures: one for each, or None.
    """

    rows: Rows
    members: list[list[int]]
    sizes: Rows
    signatures: list[bytes | None]


def find_duplicates(
    index: Index | str | os.PathLike[str],
    kind: str = "near",
    *,
    threshold: float | None = None,
    progress: Progress | None = None,
) -> Duplicates:
    """Find groups of duplicate pictures; docs/duplicates.md says how.

    Args:
        kind: "exact" finds files with the same bytes; "near" also those that look the same: resized,
            recompressed, trimmed by up to 5 %; "semantic" the same bytes, and vectors that are close; "local" the
            same bytes, and pictures one of which shows a part of the other: crops, collages and what they are
            made of. It needs local features.
        threshold: the minimum similarity of signatures, cosine similarity of vectors, or share of the local
            features that agree, above 0 and at most 1; 0.96, 0.95 and 0.03 if not given.
        progress: called with the number of pictures compared and of all that differ in their bytes; while they
            are read, with 0 and the number of all; while groups are made, all are compared. What it raises ends
            the work.

    Raises:
        InvalidArgument: there is no such kind, or the threshold is out of range.
        IndexFault: as opening the index raises them; for "local", it has no local features, or too many of them
            are in no file of neighbours.
        MissingExtra: for "local", OpenCV is not installed.
    """
    if kind not in KINDS:
        raise InvalidArgument(f"{kind!r} is not a kind of duplicates; expected {', '.join(KINDS)}")
    if threshold is not None and (kind == "exact" or not 0 < threshold <= 1):
        raise InvalidArgument(f"the threshold is {threshold}; expected above 0 and at most 1, or none for exact")
    if not isinstance(index, Index):
        with Index.open(index) as opened:
            return find_duplicates(opened, kind, threshold=threshold, progress=progress)
    with ExitStack() as stack:
        return _find(index, kind, threshold, progress or _unseen, stack)


def _find(index: Index, kind: str, threshold: float | None, progress: Progress, stack: ExitStack) -> Duplicates:
    count = len(index)
    classes = _read(index, partial(progress, 0, count), signed=kind == "near")
    distinct = len(classes.rows)
    pairs: Rows = np.empty((0, 2), dtype=np.int64)
    alike: Callable[[int, Rows], npt.NDArray[np.float32]] | None = None
    place: Callable[[int, int], Placement] | None = None
    least = 1.0
    if kind == "near":
        least = MIN_SIMILARITY if threshold is None else threshold
        pairs, alike = _near(classes, least, progress)
    elif kind == "semantic":
        least = MIN_COSINE if threshold is None else threshold
        pairs, alike = _semantic(index, classes, least, progress)
    elif kind == "local":
        least = SAME.min_share if threshold is None else threshold
        local = stack.enter_context(closing(LocalPairs(index, classes.members, classes.sizes, least)))
        pairs, alike, place = local.find(progress), local.shares, local.placement
    sets = components(pairs, distinct)
    joined = {int(i) for part in sets for i in part}
    sets += [np.array([i]) for i, rows in enumerate(classes.members) if len(rows) > 1 and i not in joined]
    found = _groups(index, classes, sets, kind, least, alike, place, partial(progress, distinct, distinct))
    missing = sum(len(m) for m, s in zip(classes.members, classes.signatures, strict=True) if s is None)
    return Duplicates(found, count, missing if kind == "near" else 0)


def _unseen(done: int, total: int) -> None:
    """Tell nobody about progress."""


def _read(index: Index, tell: Callable[[], None], *, signed: bool) -> _Classes:
    rows: list[int] = []
    sizes: list[tuple[int, int]] = []
    members: list[list[int]] = []
    signatures: list[bytes | None] = []
    known: dict[bytes, int] = {}
    for start in range(0, len(index.vectors), _ROWS_AT_ONCE):
        tell()
        end = min(start + _ROWS_AT_ONCE, len(index.vectors))
        held = dict(index.signatures(start, end)) if signed else {}
        for row, content, width, height in index.contents(start, end):
            at = known.setdefault(content, len(rows))
            if at == len(rows):
                rows.append(row)
                sizes.append((width, height))
                members.append([])
                signatures.append(None)
            members[at].append(row)
            if signatures[at] is None:
                signatures[at] = held.get(row)
    shape = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    return _Classes(np.array(rows, dtype=np.int64), members, shape, signatures)


def _near(
    classes: _Classes, least: float, progress: Progress
) -> tuple[Rows, Callable[[int, Rows], npt.NDArray[np.float32]]]:
    """Find pairs that look the same -> positions in `classes`, and a function that compares one with others."""
    signed = np.array([i for i, one in enumerate(classes.signatures) if one is not None], dtype=np.int64)
    held = [one for one in classes.signatures if one is not None]
    looks = Looks.of(b"".join(held), classes.sizes[signed])
    # Thousands of files may look exactly the same; one represents all of them in the search for pairs.
    first: dict[bytes, int] = {}
    stands = np.array([first.setdefault(one, i) for i, one in enumerate(held)], dtype=np.int64)
    leaders = np.flatnonzero(stands == np.arange(len(stands)))
    pairs = leaders[candidate_pairs(looks.take(leaders), progress)]
    pairs = pairs[similarities(looks, pairs[:, 0], pairs[:, 1], least) >= least]
    same = np.flatnonzero((stands != np.arange(len(stands))) & ~looks.plain)
    pairs = np.concatenate([pairs, np.stack([stands[same], same], axis=1)])
    place = np.full(len(classes.rows), -1, dtype=np.int64)
    place[signed] = np.arange(len(signed))

    def alike(one: int, others: Rows) -> npt.NDArray[np.float32]:
        return similarities(looks, np.repeat(place[one], len(others)), place[others], least)

    return signed[pairs], alike


def _semantic(
    index: Index, classes: _Classes, least: float, progress: Progress
) -> tuple[Rows, Callable[[int, Rows], npt.NDArray[np.float32]]]:
    def alike(one: int, others: Rows) -> npt.NDArray[np.float32]:
        return cosines(index.vectors, int(classes.rows[one]), classes.rows[others])

    index.require_sound(classes.rows)
    return close_pairs(index.vectors, classes.rows, least, progress), alike


def _groups(
    index: Index,
    classes: _Classes,
    sets: Iterable[Rows],
    kind: str,
    least: float,
    alike: Callable[[int, Rows], npt.NDArray[np.float32]] | None,
    place: Callable[[int, int], Placement] | None,
    tell: Callable[[], None],
) -> list[DuplicateGroup]:
    found = []
    for part in sets:
        tell()
        class_of = {row: int(i) for i in part for row in classes.members[int(i)]}
        pictures = keepers_first(_duplicates(index, list(class_of)))
        ranks: dict[int, list[int]] = {}  # class -> ranks of its pictures; classes ordered by their best picture
        for rank, picture in enumerate(pictures):
            ranks.setdefault(class_of[picture.row], []).append(rank)
        order = np.array(list(ranks), dtype=np.int64)
        scores: dict[int, float] = {}

        def like(one: int, others: Rows, scores: dict[int, float] = scores) -> npt.NDArray[np.bool_]:
            assert alike is not None
            measured = alike(one, others)
            near = agree(measured, least) if kind == "semantic" else measured >= least
            scores.update(zip(others[near].tolist(), measured[near].tolist(), strict=True))
            return np.asarray(near)

        cut = [order] if len(order) == 1 else stars(order, like)
        together = {int(i) for star in cut for i in star}
        # A class that was cut off a chain may still have two files of the same bytes.
        cut += [np.array([i]) for i in order.tolist() if i not in together and len(classes.members[i]) > 1]
        for star in cut:
            chosen = [pictures[rank] for rank in sorted(rank for i in star.tolist() for rank in ranks[i])]
            keeper, first = chosen[0], int(star[0])
            near = [other.row for other in chosen[1:] if class_of[other.row] != first]
            close = dict(zip(near, _cosines(index, keeper.row, near), strict=True))
            others = tuple(
                other.related(
                    kind,
                    min(1.0, scores[class_of[other.row]]),
                    close[other.row],
                    None if place is None else place(first, class_of[other.row]),
                )
                if other.row in close
                else other.related("exact", 1.0, 1.0)
                for other in chosen[1:]
            )
            found.append(DuplicateGroup(keeper, others))
    return sorted(found, key=lambda group: group.keeper.row)


def _cosines(index: Index, one: int, others: list[int]) -> list[float]:
    """Return the cosines of one row's vector with others', at most 1; 0 where a vector is not valid."""
    measured = cosines(index.vectors, one, np.array(others, dtype=np.int64))
    return [float(cosine) for cosine in np.nan_to_num(np.minimum(measured, 1.0), nan=0.0)]


def _duplicates(index: Index, rows: list[int]) -> list[Duplicate]:
    return [
        Duplicate(row, path_text(p.path), p.width, p.height, p.size, p.mtime_ns, p.content_hash)
        for row, p in index.pictures(rows).items()
    ]
