"""Searching with vectors.ann: FAISS proposes candidates, which are scored with the rows themselves."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.ann.layout import require_layout
from clipdex.base.arrays import Array
from clipdex.base.errors import IndexDamaged, IndexFault, InvalidArgument
from clipdex.base.extras import needs
from clipdex.index.parts import PartedIndex, merged
from clipdex.index.reader import Index
from clipdex.index.side.ann_file import AGAIN, ANN_FILE, AnnHeader, read
from clipdex.search.cosines import UnsoundRow, not_unit
from clipdex.search.estimates import RowNorms
from clipdex.search.exact import Ranking, rank
from clipdex.search.selection import flags_of
from clipdex.search.topk import top_k

__all__ = ["AnnIndex", "PartedAnn", "import_faiss"]

# Candidates for k hits. HNSW compares the rows themselves, IVF-PQ their codes, which are less accurate.
_FETCH = {"hnsw": (2, 20), "ivf_pq": (20, 200)}

# If a filter leaves less than this, rows are scanned exactly: with most nodes excluded, a graph finds little.
_LEAST_SHARE = 0.05
_LEAST_ROWS = 20_000
_MOST_HITS = 1000

_OF_KIND = {"hnsw": "hnsw", "ivf_pq": "nlist"}  # an attribute of FAISS's index of each kind

_ROWS_AT_ONCE = 1 << 16

Rows = npt.NDArray[np.int64]


class AnnIndex:
    """The loaded `vectors.ann` of an index. Pass it to `Index.search(..., ann=...)`.

    header: the rows it was built for, and the recall that was measured when it was built.
    effort: efSearch of HNSW, nprobe of IVF-PQ; more effort means higher recall and slower searches.
    """

    def __init__(self, faiss: Any, header: AnnHeader, found: Any, effort: int | None = None) -> None:
        if effort is not None and effort < 1:
            raise InvalidArgument(f"the effort is {effort}; expected 1 or more")
        self.header = header
        self.effort = header.parameters["effort"] if effort is None else effort
        self._faiss, self._index = faiss, found
        self._fits: object = None

    @classmethod
    def open(cls, index: Index, effort: int | None = None) -> AnnIndex:
        """Load the file of an index; for one of parts, see `PartedAnn`. HNSW takes as much memory as the vectors.

        Raises:
            MissingExtra: FAISS is not installed.
            IndexFault: there is no file, or it is damaged or belongs to other rows; exact search works without
                it. Or it has rows that the index will see only after `refresh`.
        """
        faiss = import_faiss()
        if isinstance(index, PartedIndex):
            raise InvalidArgument(f"{index.directory} is an index of parts: open it with PartedAnn.open")
        header, blob = read(index.directory, index.manifest, index.extents())
        _require_seen(header, index)
        path = index.directory / ANN_FILE
        try:
            require_layout(blob, header.kind, header.rows, header.embedding_dim)
            found = faiss.deserialize_index(blob)
        except ValueError as exc:
            raise IndexDamaged(f"{path} is damaged: FAISS cannot read it ({exc}); {AGAIN}") from exc
        except RuntimeError as exc:  # FAISS's own error: its text has C++ source lines in it
            raise IndexDamaged(f"{path} is damaged: FAISS cannot read it; {AGAIN}") from exc
        if (
            found.ntotal != header.rows
            or found.d != header.embedding_dim
            or not hasattr(found, _OF_KIND[header.kind])
        ):
            raise IndexDamaged(f"{path} is damaged: it is not what its header says; {AGAIN}")
        if header.kind == "hnsw":
            # All rows are read now; a graph would not lead to rows that are not finite.
            index.require_sound(np.setdiff1d(np.arange(header.rows), index.tombstones, assume_unique=True))
            found.storage = _storage(faiss, index.vectors[: header.rows], header)
            found.own_fields = True
            found.storage.this.disown()
        opened = cls(faiss, header, found, effort)
        opened._fits = index.generation
        return opened

    def require(self, index: Index) -> None:
        """Raise IndexFault unless it was built for the index's current rows: a compaction renumbers them."""
        if self._fits is index.generation:
            return
        try:
            self.header.require(index.manifest, index.extents(), index.directory / ANN_FILE)
        except IndexFault as exc:
            raise IndexFault(
                f"the approximate index does not belong to the rows that {index.directory} has now; "
                "build one with  clipdex ann build,  and open it again"
            ) from exc
        _require_seen(self.header, index)
        self._fits = index.generation

    def rank(
        self,
        vectors: Array,
        queries: npt.NDArray[np.float32],
        k: int,
        *,
        allowed: Array | None = None,
        dead: Rows | None = None,
        minimum: float = -np.inf,
    ) -> list[Ranking]:
        """Rank like `search.topk.top_k`, but a row that should be among the best may be missing.

        Scores are exact. Rows that the file does not have are searched exactly. If few rows are allowed, or many
        are wanted, the whole search is exact.

        Raises:
            UnsoundRow: a row that FAISS found, or a newer one that may be ranked, is not of norm 1.
        """
        covered = self.header.rows
        live = flags_of(len(vectors), allowed)
        if dead is not None:
            live[dead] = False
        count = int(np.count_nonzero(live[:covered]))
        fetch = self._fetch(k)
        if fetch > min(_MOST_HITS, count) or count < max(min(_LEAST_ROWS, covered), _LEAST_SHARE * covered):
            return top_k(
                vectors, queries, k, allowed=allowed, dead=dead, minimum=minimum, norms=RowNorms(unit=True)
            )
        candidates = self._candidates(queries, fetch, live[:covered], count)
        since = covered + np.flatnonzero(live[covered:])
        added = top_k(vectors, queries, k, allowed=since, norms=RowNorms(unit=True)) if len(since) else None
        answers = []
        for i, query in enumerate(queries):
            rows = candidates[i][(candidates[i] >= 0) & (candidates[i] < covered)]
            rows = rows if added is None else np.union1d(rows, added[i].rows)
            for row in rows[not_unit(vectors[rows])]:
                raise UnsoundRow(int(row))
            if len(rows) < min(k, count):
                answers += top_k(
                    vectors, query[None], k, allowed=allowed, dead=dead, minimum=minimum, norms=RowNorms(unit=True)
                )
            else:
                answers.append(rank(vectors, query, rows, k, minimum))
        return answers

    def _fetch(self, k: int) -> int:
        times, least = _FETCH[self.header.kind]
        return max(times * k, least)

    def _candidates(
        self, queries: npt.NDArray[np.float32], fetch: int, live: npt.NDArray[np.bool_], count: int
    ) -> Rows:
        """Search with FAISS -> int64 (Q, fetch); -1 where nothing more was found."""
        faiss, share, options = self._faiss, count / len(live), {}
        if count < len(live):
            options["sel"] = faiss.IDSelectorBitmap(np.packbits(live, bitorder="little"))
        effort = min(10 * self.effort, round(self.effort / share))
        if self.header.kind == "hnsw":
            # FAISS allocates memory for this many at once.
            parameters = faiss.SearchParametersHNSW(efSearch=max(min(effort, len(live)), fetch), **options)
        else:
            parameters = faiss.SearchParametersIVF(nprobe=min(effort, self._index.nlist), **options)
        asked = np.ascontiguousarray(queries, dtype=np.float32)
        try:
            _, rows = self._index.search(asked, fetch, params=parameters)
        except RuntimeError as exc:
            raise IndexDamaged(f"{ANN_FILE} is damaged: FAISS cannot search it; {AGAIN}") from exc
        return np.asarray(rows, dtype=np.int64)


class PartedAnn:
    """The loaded `vectors.ann` of each part of an index. Pass it to `Index.search(..., ann=...)`.

    parts: one for each part; None for a part without rows.
    """

    def __init__(self, parts: Sequence[AnnIndex | None]) -> None:
        self.parts = list(parts)

    @classmethod
    def open(cls, index: Index, effort: int | None = None) -> PartedAnn:
        """Load the files of an index of parts. Raises as `AnnIndex.open`, also if one part has no file."""
        return cls([AnnIndex.open(part, effort) if len(part.vectors) else None for _, part in index.pieces()])

    def require(self, index: Index) -> None:
        """Raise IndexFault unless they were built for the parts' current rows."""
        pieces = index.pieces()
        if len(pieces) != len(self.parts):
            raise IndexFault(f"{index.directory} has other parts than when the approximate index was opened")
        self._firsts = [first for first, _ in pieces]
        for (_, piece), part in zip(pieces, self.parts, strict=True):
            if part is not None:
                part.require(piece)

    def rank(
        self,
        vectors: Array,
        queries: npt.NDArray[np.float32],
        k: int,
        *,
        allowed: Array | None = None,
        dead: Rows | None = None,
        minimum: float = -np.inf,
    ) -> list[Ranking]:
        """Rank each part's rows like `AnnIndex.rank`, and merge; rows of a part without a file exactly."""
        flags = None if allowed is None else flags_of(len(vectors), allowed)
        best = [Ranking(np.empty(0), np.empty(0, np.int64)) for _ in queries]
        for part, first, end in zip(self.parts, self._firsts, [*self._firsts[1:], len(vectors)], strict=True):
            own = vectors[first:end]
            gone = None if dead is None else dead[(dead >= first) & (dead < end)] - first
            some = None if flags is None else flags[first:end]
            try:
                if part is None:
                    found = top_k(
                        own, queries, k, allowed=some, dead=gone, minimum=minimum, norms=RowNorms(unit=True)
                    )
                else:
                    found = part.rank(own, queries, k, allowed=some, dead=gone, minimum=minimum)
            except UnsoundRow as exc:
                raise UnsoundRow(exc.row + first) from exc
            best = [
                merged([old, Ranking(new.scores, new.rows + first)], k)
                for old, new in zip(best, found, strict=True)
            ]
        return best


def import_faiss() -> ModuleType:
    """Import FAISS. Raises MissingExtra if it cannot be imported."""
    with needs("faiss", "faiss-cpu", "faiss", "approximate search"):
        import faiss
    module: ModuleType = faiss
    return module


def _require_seen(header: AnnHeader, index: Index) -> None:
    """Raise IndexFault if the file has rows that the opened index does not see yet."""
    if header.rows > len(index.vectors):
        raise IndexFault(
            f"{index.directory / ANN_FILE} has rows that were written after the index was opened; refresh it"
        )


def _storage(faiss: Any, vectors: Array, header: AnnHeader) -> Any:
    """Load a graph's vectors into FAISS's storage: float16 rows are its fp16 codes, byte for byte."""
    if header.dtype == "float32":
        held = faiss.IndexFlatIP(header.embedding_dim)
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            held.add(np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE], dtype=np.float32))
        return held
    kind = faiss.ScalarQuantizer.QT_fp16
    held = faiss.IndexScalarQuantizer(header.embedding_dim, kind, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        codes = np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE], dtype="<f2")
        held.add_sa_codes(codes.view(np.uint8))
    return held
