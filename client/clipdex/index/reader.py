"""Reading an index: searching the rows of a snapshot through a memory map, and looking up their pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from clipdex.base.arguments import as_path, is_count, row_numbers
from clipdex.base.arrays import Array, Vectors
from clipdex.base.counting import counted
from clipdex.base.errors import InvalidArgument
from clipdex.base.item_paths import paths_meant
from clipdex.base.records import Extent, Failure, KnownFile, Picture
from clipdex.index.asked import DEFAULT_TOP_K, Asked, View, asked_of
from clipdex.index.hits import Hit, Hits, grouped_ranking, hits_of, no_record, traits, unsound
from clipdex.index.info import IndexInfo, info_of
from clipdex.index.opened import OpenedIndex
from clipdex.index.part_plan import is_parted
from clipdex.index.ranker import Ranker
from clipdex.index.search_options import check_options, check_params, checked_queries
from clipdex.index.where import FILTER_TIMEOUT_S, Rows
from clipdex.model.card import ModelCard
from clipdex.model.embeddings import Embeddings
from clipdex.search.cosines import not_unit
from clipdex.search.exact import Ranking
from clipdex.search.grouping import Group, Grouping, Traits
from clipdex.search.selection import absent

__all__ = ["DEFAULT_TOP_K", "Hit", "Hits", "Index", "IndexInfo"]

_CHECKED_AT_ONCE = 65_536  # rows


class Index(OpenedIndex):
    """A read-only view of an index as of the moment it was opened; `refresh` moves it to now.

    Readers never wait for a writer and never see a row that is not committed.

    generation: replaced by a new object when `refresh` finds a compacted index, whose rows have other numbers.
    """

    generation: object
    of_parts: ClassVar[type[Any]]  # the class for an index of parts; clipdex.index.parts sets it

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        allow_missing: bool = False,
        filter_timeout_s: float = FILTER_TIMEOUT_S,
    ) -> Index:
        """Open an index for reading: one index, or an index of parts (docs/parts.md).

        Args:
            allow_missing: of an index of parts, read those that are there; `missing` names the others.
            filter_timeout_s: seconds that SQLite may take to evaluate one `where`.

        Raises:
            IndexNotFound: the directory, or a part, does not exist.
            IndexFormatError: it is not an index, or has a newer format.
            IndexDamaged: the vectors file is shorter than the commit record says.
            FingerprintMismatch: a part holds another model's vectors.
        """
        path = as_path(directory, "the path of an index")
        if is_parted(path):
            found: Index = cls.of_parts(path, allow_missing=allow_missing, filter_timeout_s=filter_timeout_s)
            return found
        return cls(path, filter_timeout_s=filter_timeout_s)

    def refresh(self) -> None:
        """Move the view to the latest commit, also if the index has been compacted since."""
        self._look_until_in_place()

    @property
    def version(self) -> int:
        """A number that is another one after each `refresh` that found a commit, of one `generation`."""
        return self._version

    @property
    def is_open(self) -> bool:
        """Whether it has been neither closed nor left without files by a `refresh` that failed."""
        return self._place >= 0

    @property
    def missing(self) -> list[str]:
        """The names of the parts that are missing; always empty for an index that has none."""
        return []

    def pieces(self) -> list[tuple[int, Index]]:
        """List (first row, index) of what it consists of: its parts in order, or itself if it has none."""
        return [(0, self)]

    def is_current(self) -> bool:
        """Return whether nothing was committed, by any process, since the view was taken. Takes microseconds."""
        return self._in_place() and self.rows_now().data_version() == self._version

    def __repr__(self) -> str:
        state = counted(len(self), "picture") if self._place >= 0 else "closed"
        return f"<clipdex.Index {os.fspath(self.directory)!r}: {state}>"

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

    def search(
        self,
        queries: Array,
        top_k: int | None = None,
        *,
        offset: int = 0,
        min_score: float | None = None,
        where: str | Sequence[int] | Array | None = None,
        params: Mapping[str, Any] | None = None,
        exclude: Sequence[int] | Array = (),
        grouping: Grouping | None = None,
        ann: Ranker | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> list[Hits]:
        """Find the `top_k` pictures nearest to each query, best first; equal scores by row.

        Args:
            queries: (D,) or (Q, D) of a float dtype, each of norm 1 within 1e-3. The fingerprint of `Embeddings`,
                as a client or an index returns them, is checked, too.
            top_k: hits per query (default 5); all pictures if there are fewer.
            offset: how many of the best hits to skip: the next page starts at `offset + top_k`.
            min_score: minimum cosine similarity of a hit.
            where: restricts the hits: a condition in SQL (docs/search.md), or rows: flags (N,) or numbers,
                as `where` returns them.
            params: values of the condition's `:name` parameters.
            exclude: rows to leave out.
            grouping: makes near-duplicates one hit; see `Hit.copies`.
            ann: finds the candidates, such as `clipdex.ann.AnnIndex`: faster, but one of the best may be missing.
            check: called now and then while the condition is evaluated and rows are ranked, in any thread, but not
                by `ann`; what it raises ends the search.

        Raises:
            InvalidArgument: the queries' width differs from the index's, a query is not of norm 1, the condition
                is invalid, or a number is out of range.
            FingerprintMismatch: the queries are from another model than the rows.
            IndexFault: `ann` was built for other rows: the index was compacted since, or it is another index.
            IndexDamaged: a row that was examined, and might have been a hit, is not finite or not of norm 1.
        """
        wide = checked_queries(queries, self.manifest, self.directory)
        check_options(top_k, offset, min_score, grouping, ann)
        allowed = self.allowed(where, params, check)
        asked = asked_of(wide, len(self), len(self._vectors), top_k, offset, min_score, exclude)
        if ann is not None:
            ann.require(self)
        view = replace(self.view(codes=ann is None), check=check)
        if grouping is None:
            return self.hits(asked, view.ranked(asked, allowed, ann))

        def traits_of(rows: Array) -> Traits:
            pictures = self._store.pictures(rows.tolist())
            for row in rows.tolist():
                if row not in pictures:
                    raise no_record(self.directory, row)
            return traits([pictures[row] for row in rows.tolist()], self._vectors[rows])

        def rank(one: Asked, depth: int) -> list[Ranking]:
            return view.ranked([replace(one, depth=depth)], allowed, ann)

        found = []
        for one in asked:
            ranking, groups = grouped_ranking(partial(rank, one), len(self), one.depth, grouping, traits_of)
            found.append((ranking, groups[offset:]))
        return self._hits(found)

    def asked(
        self,
        query: Array,
        top_k: int | None = None,
        *,
        offset: int = 0,
        min_score: float | None = None,
        exclude: Sequence[int] | Array = (),
    ) -> Asked:
        """Check one query, (D,) or (1, D), and its options, which are those of `search`, for a view."""
        wide = checked_queries(query, self.manifest, self.directory)
        check_options(top_k, offset, min_score)
        return asked_of(wide[:1], len(self), len(self._vectors), top_k, offset, min_score, exclude)[0]

    def allowed(
        self,
        where: str | Sequence[int] | Array | None,
        params: Mapping[str, Any] | None,
        check: Callable[[], None] = lambda: None,
    ) -> Array | None:
        """The rows that `where`, as `search` takes it, allows; None for all. check: as for `where`."""
        check_params(where, params)
        if isinstance(where, str):
            return self.where(where, params, check)
        return None if where is None else row_numbers(where, "the filter", or_flags=True)

    def view(self, codes: bool = True) -> View:
        """The rows as of now, to be ranked. codes: with their codes."""
        some = self.codes() if codes else None
        return View(self.directory, self._vectors, some, self._dead, self._norms, self.generation)

    def hits(self, asked: Sequence[Asked], rankings: Sequence[Ranking]) -> list[Hits]:
        """Make the hits of what a view's `ranked` found."""
        found = zip(asked, rankings, strict=True)
        return self._hits([(each, [Group(i) for i in range(one.offset, len(each.rows))]) for one, each in found])

    def _hits(self, found: Sequence[tuple[Ranking, Sequence[Group]]]) -> list[Hits]:
        """Groups of positions in rankings, as hits."""
        rows = sorted({int(ranking.rows[i]) for ranking, groups in found for group in groups for i in group.all})
        self.require_sound(rows)  # what had codes, or was named by FAISS, has not been looked at before
        pictures = self._store.pictures(rows)
        for row in rows:
            if row not in pictures:
                raise no_record(self.directory, row)
        return hits_of(found, pictures, self.directory)

    def where(
        self,
        condition: str,
        params: Mapping[str, Any] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Rows:
        """Find the live rows that meet a condition in SQL: int64, ascending (docs/search.md).

        It is evaluated once; until `refresh`, using the same condition again costs nothing. check: called now and
        then while it is evaluated; what it raises ends that.

        Raises:
            InvalidArgument: it is not a condition on a picture's columns, or takes too long.
            IndexFault: the index was compacted after it was opened, before its first condition; refresh it.
        """
        return self._live(self._conditions().rows(condition, params, len(self._vectors), check))

    def where_numbered(
        self,
        condition: str,
        params: Mapping[str, Any] | None,
        first: int,
        check: Callable[[], None] = lambda: None,
    ) -> Rows:
        """Find rows like `where`, for a condition on `row` that numbers the first row `first` -> own row numbers.

        Raises: as `where`.
        """
        with closing(self._opened_where(first)) as numbered:
            found: Rows = numbered.rows(condition, params, first + len(self._vectors), check) - first
        return self._live(found)

    def _live(self, rows: Rows) -> Rows:
        return rows[absent(rows, self._dead)] if len(self._dead) else rows

    def selected(
        self, sql: str, values: Mapping[str, Any], check: Callable[[], None] = lambda: None
    ) -> list[tuple[Any, ...]]:
        """Run a SELECT of this package over the view of conditions; see `Where.selected`."""
        return self._conditions().selected(sql, values, check)

    def require_sound(self, rows: Sequence[int] | Array) -> None:
        """Raise IndexDamaged unless these rows are finite and of norm 1, up to their rounding."""
        asked = row_numbers(rows, "rows", or_flags=False)
        for start in range(0, len(asked), _CHECKED_AT_ONCE):
            some = asked[start : start + _CHECKED_AT_ONCE]
            for at in not_unit(self._vectors[some]):
                raise unsound(self.directory, int(some[at]))

    def row(self, which: int | str | os.PathLike[str]) -> int:
        """Find the row of a live picture, given its row or its path, relative to the current folder or absolute.

        `id:ID` is the item that was added by that id (docs/collection.md); `./id:ID` a file of that name.
        If no path has these bytes, one that looks the same is used: `é` may be one character or two.

        Raises:
            InvalidArgument: there is no such picture, or several paths look the same.
        """
        self._require_open()
        if isinstance(which, bool) or not isinstance(which, (int, np.integer, str, bytes, os.PathLike)):
            raise InvalidArgument(f"expected the row or the path of a picture, not {type(which).__name__}")
        if isinstance(which, (int, np.integer)):
            if 0 <= which < len(self._vectors) and which not in self._dead:
                return int(which)
            held = counted(len(self), "picture")
            raise InvalidArgument(f"{self.directory} has no picture in row {which}; it has {held}")
        paths = paths_meant(which)
        known = next(filter(None, map(self._store.known, paths)), None)
        known = known or self._store.known_by_look(paths[-1], len(self._vectors))
        if known is None or known.row is None or not known.row < len(self._vectors):
            raise InvalidArgument(f"{os.fspath(which)} is not a picture in {self.directory}")
        return known.row

    def vector(self, which: int | str | os.PathLike[str]) -> Vectors:
        """Read a live picture's vector, by its row or path: float32 (D,), of norm 1 up to the index's rounding.

        Raises:
            InvalidArgument: there is no such picture, or several paths look the same.
            IndexDamaged: it is not finite or not of norm 1.
        """
        row = self.row(which)
        self.require_sound([row])
        return Embeddings.of(self._vectors[row], self.manifest.fingerprint)

    def live_paths(self, start: int = 0, end: int | None = None) -> list[tuple[int, bytes]]:
        """List (row, path) of every live row in [start, end), by row."""
        rows = len(self._vectors)
        return self._store.live_paths(start, rows if end is None else min(end, rows))

    def pictures(self, rows: Sequence[int]) -> dict[int, Picture]:
        """Read the records of these rows' pictures, dead ones too, by row. Rows that do not exist are left out."""
        return self._store.pictures(rows)

    def extents(self) -> list[Extent]:
        """Read the commit record as of now, in order."""
        return self._store.extents()

    def contents(self, start: int, end: int) -> list[tuple[int, bytes, int, int]]:
        """List (row, content hash, width, height) of every live row in [start, end), by row."""
        return self._store.contents(start, min(end, len(self._vectors)))

    def signatures(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """List (row, perceptual signature) of the live rows in [start, end) with an undamaged one, by row."""
        return self._store.signatures(start, min(end, len(self._vectors)))

    def picture(self, row: int) -> Picture:
        """Read the record of a row's picture. Raises InvalidArgument if there is no such row."""
        self._require_open()
        found = self._store.pictures([row]) if is_count(row, 0) and row < len(self._vectors) else {}
        if row not in found:
            raise InvalidArgument(f"{self.directory} has no row {row!r}; expected 0 to {len(self._vectors) - 1}")
        return found[row]

    def known(self, path: bytes) -> KnownFile | None:
        """Look up a path: its row or its line in the ledger, or None."""
        return self._store.known(path)

    def info(self) -> IndexInfo:
        """Summarise the index: counts, size and dates."""
        return info_of(self.directory, self.rows_now(), len(self), len(self._dead))

    def failures(self) -> list[Failure]:
        """Read the ledger: every file that could not be indexed, by path. Raises IndexDamaged if unreadable."""
        return self._store.failures()

    def failures_page(self, limit: int, offset: int) -> list[Failure]:
        """Read a part of the ledger, by path. Raises IndexDamaged if unreadable."""
        return self._store.failures_page(limit, offset)

    def failed_paths(self) -> list[bytes]:
        """List the paths in the ledger, including those of damaged lines that still have a path."""
        return self._store.failed_paths()

    def thumbnail(self, content_hash: bytes) -> bytes | None:
        """Return the JPEG kept for rows with this content; None if there is none. Raises IndexFault."""
        return self._kept_thumbnail(content_hash)

    def close(self) -> None:
        """Close the files. Arrays taken from `vectors` stay valid."""
        self._close_files()

    def __enter__(self) -> Index:
        self._require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
