"""Reading an index of parts as one: every query of `Index`, over several indexes that share a plan.

Rows are numbered part after part. A part's score of a row is that of one index with all rows, to the last bit, so
merging the parts' answers gives exactly that index's answer.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import ClipdexError, IndexFormatError
from clipdex.index.asked import Asked, View
from clipdex.index.files import fault, open_directory
from clipdex.index.hits import unsound
from clipdex.index.info import IndexInfo
from clipdex.index.part_plan import PLAN, PartPlan, missing_parts, require_parts
from clipdex.index.part_rows import PartedRows, PieceRows
from clipdex.index.ranker import Ranker
from clipdex.index.reader import Index
from clipdex.index.side.int8_file import Int8File
from clipdex.index.where import FILTER_TIMEOUT_S, Rows, Where, columns_read
from clipdex.search.cosines import UnsoundRow
from clipdex.search.estimates import RowNorms
from clipdex.search.exact import Ranking
from clipdex.search.parted import PartedVectors
from clipdex.search.pieces import Piece, top_k_of_pieces
from clipdex.search.selection import flags_of

__all__ = ["PartedIndex", "PartedView", "merged"]


class PartedIndex(Index):
    """A read-only view of an index of parts. A commit to one part may give the rows of later parts other numbers.

    generation: replaced by a new object when `refresh` finds that rows have other numbers.
    """

    def __init__(
        self, directory: Path, *, allow_missing: bool = False, filter_timeout_s: float = FILTER_TIMEOUT_S
    ) -> None:
        self._allow_missing = allow_missing
        self._opened: dict[str, Index] = {}
        self._missing: list[str] = []
        self._numbered: list[tuple[int, int, Index]] = []  # number, first row, part
        super().__init__(directory, filter_timeout_s=filter_timeout_s)

    def _open_files(self) -> None:
        plan = PartPlan.read(self.directory)  # gives a better error if the index does not exist
        try:
            self._place = open_directory(self.directory)
        except OSError as exc:
            raise fault(self.directory, exc) from exc
        self.plan, self.manifest = plan, plan.manifest
        self.generation = object()
        self._version = 0
        self._state: object = None
        self._numbers: object = None
        self._norms = RowNorms(unit=True)
        self._opened_store = PartedRows([], plan.part_of)

    @property
    def missing(self) -> list[str]:
        """The names of the parts that are missing; empty unless opened with `allow_missing`."""
        return list(self._missing)

    def pieces(self) -> list[tuple[int, Index]]:
        """List (first row, part) of each part, in order."""
        self._require_open()
        return [(first, part) for _, first, part in self._numbered]

    def is_current(self) -> bool:
        """Return whether nothing was committed to any part since the view was taken, and no part was added."""
        return (
            self._in_place()
            and missing_parts(self.directory, self.plan) == self._missing
            and all(part.is_open and part.is_current() for part in self._opened.values())
        )

    def _look_until_in_place(self) -> None:
        self._require_open()
        try:
            if not self._in_place():
                self._close_files()
                self._open_files()
            self._look()
        except BaseException:
            self._close_files()
            raise

    def _look(self) -> None:
        if not self._allow_missing:
            require_parts(self.directory, self.plan)
        self._missing = missing_parts(self.directory, self.plan)
        for name in self._missing:
            if name in self._opened:
                self._opened.pop(name).close()
        self._numbered, first = [], 0
        for number, name in enumerate(self.plan.names()):
            if name not in self._missing:
                part = self._opened.get(name)
                if part is None:
                    opened = Index(self.directory / name, filter_timeout_s=self.filter_timeout_s)
                    part = self._opened[name] = opened
                elif not (part.is_open and part.is_current()):
                    part.refresh()
                part.manifest.require_same(self.plan.manifest, part.directory)
                self._require_layout(part)
                self._numbered.append((number, first, part))
                first += len(part.vectors)
        self._take()

    def _require_layout(self, part: Index) -> None:
        ours, theirs = ((m.embedding_dim, m.dtype) for m in (self.plan.manifest, part.manifest))
        if ours != theirs:
            raise IndexFormatError(
                f"{part.directory} has vectors of {theirs[0]} × {theirs[1]}, and {self.directory / PLAN} says "
                f"{ours[0]} × {ours[1]}: it is not a part of this index"
            )

    def _take(self) -> None:
        """Take the snapshot of what the parts have now."""
        parts = [part for _, _, part in self._numbered]
        arrays = [part.vectors for part in parts]
        self._vectors = cast(Array, PartedVectors(arrays, self.plan.embedding_dim, self.plan.manifest.numpy_dtype))
        dead = [part.tombstones + first for _, first, part in self._numbered]
        self._dead = np.concatenate([np.empty(0, np.int64), *dead])
        pieces = [
            PieceRows(number, first, len(part.vectors), part.rows_now()) for number, first, part in self._numbered
        ]
        self._opened_store = PartedRows(pieces, self.plan.part_of)
        below = next((part.manifest.below_floor for part in parts if part.manifest.below_floor), "")
        self.manifest = replace(self.plan.manifest, below_floor=below)
        numbers = [(first, part.generation) for _, first, part in self._numbered]
        state = [(part.generation, part.version) for part in parts]
        if numbers != self._numbers:
            self._numbers, self.generation = numbers, object()
        if state != self._state:
            self._state = state
            self._version += 1

    def columns(self) -> None:
        """None: each part has columns of its own."""

    def codes(self) -> Int8File | None:
        """Return None: each part has codes of its own, which a search uses."""
        return None

    def view(self, codes: bool = True) -> View:
        """The rows as of now, to be ranked. codes: with each part's codes."""
        views = [(first, part.view(codes)) for first, part in self.pieces() if len(part.vectors)]
        return PartedView(
            self.directory,
            self._vectors,
            None,
            self._dead,
            self._norms,
            self.generation,
            views=tuple(views),
        )

    def where(
        self,
        condition: str,
        params: Mapping[str, Any] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Rows:
        """Find the live rows that meet a condition in SQL; see `Index.where`."""
        # Rows have other numbers in a part; only a condition that reads them needs a connection of its own.
        numbered = isinstance(condition, str) and bool(columns_read(condition, ("row",)))
        found = [
            first
            + (
                part.where_numbered(condition, params, first, check)
                if numbered
                else part.where(condition, params, check)
            )
            for first, part in self.pieces()
        ]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _conditions(self) -> Where:
        raise ClipdexError(f"{self.directory} is an index of parts: ask each of its pieces")

    def info(self) -> IndexInfo:
        """Summarise the index: the sums of its parts, and the first and last of their dates."""
        infos = [part.info() for _, part in self.pieces()]
        failures: Counter[str] = Counter()
        for each in infos:
            failures.update(each.failures)
        return IndexInfo(
            rows=sum(each.rows for each in infos),
            tombstones=sum(each.tombstones for each in infos),
            failures=dict(sorted(failures.items(), key=lambda item: (-item[1], item[0]))),
            bytes_on_disk=sum(each.bytes_on_disk for each in infos),
            first_commit=min((i.first_commit for i in infos if i.first_commit is not None), default=None),
            last_commit=max((i.last_commit for i in infos if i.last_commit is not None), default=None),
            with_exif=sum(each.with_exif for each in infos),
            with_features=sum(each.with_features for each in infos),
            feature_bytes=sum(each.feature_bytes for each in infos),
            neighbour_bytes=sum(each.neighbour_bytes for each in infos),
        )

    def thumbnail(self, content_hash: bytes) -> bytes | None:
        """Return the JPEG kept for rows with this content; None if no part has one."""
        for _, part in self.pieces():
            if (found := part.thumbnail(content_hash)) is not None:
                return found
        return None

    def _close_files(self) -> None:
        for part in self._opened.values():
            part.close()
        self._opened.clear()
        self._numbered = []
        if self._place >= 0:
            os.close(self._place)
            self._place = -1


Index.of_parts = PartedIndex


@dataclass(frozen=True)
class PartedView(View):
    """The rows of all parts as of one moment. views: (first row, view) of each part that has rows."""

    views: tuple[tuple[int, View], ...] = ()

    def ranked(self, asked: Sequence[Asked], allowed: Array | None, ann: Ranker | None = None) -> list[Ranking]:
        """Rank the rows of all parts for several queries in one scan; see `View.ranked`."""
        if not asked or ann is not None:
            return super().ranked(asked, allowed, ann)
        flags = None if allowed is None else flags_of(len(self.vectors), allowed)
        first, left_out = asked[0].excluded, [one.excluded for one in asked]
        alike = all(each is first for each in left_out)  # then they are not even looked at, sound or not
        pieces = []
        for begin, view in self.views:
            dead = view.dead
            if alike and len(first):
                dead = np.union1d(dead, first[(first >= begin) & (first < begin + len(view.vectors))] - begin)
            pieces.append(Piece(view.vectors, view.codes, dead, view.norms))
        if not pieces:
            return [Ranking(np.empty(0), np.empty(0, np.int64)) for _ in asked]
        try:
            return top_k_of_pieces(
                pieces,
                np.stack([one.query for one in asked]),
                [min(one.depth, len(self.vectors)) for one in asked],
                allowed=flags,
                minimum=[one.minimum for one in asked],
                excluded=[np.empty(0, np.int64)] * len(asked) if alike else left_out,
                check=self.check,
            )
        except UnsoundRow as exc:
            raise unsound(self.directory, exc.row) from exc


def merged(rankings: Sequence[Ranking], k: int) -> Ranking:
    """Join rankings of different rows -> the best k, equal scores by row."""
    scores = np.concatenate([each.scores for each in rankings])
    rows = np.concatenate([each.rows for each in rankings])
    order = np.lexsort((rows, -scores))[:k]
    return Ranking(scores[order], rows[order])
