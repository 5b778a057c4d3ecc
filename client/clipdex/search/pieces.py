"""Exact top-k over several arrays of rows, as over one: they share their candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.search.cosines import UnsoundRow
from clipdex.search.each import Each, turns
from clipdex.search.exact import Ranking
from clipdex.search.parted import PartedVectors
from clipdex.search.quantize import Codes
from clipdex.search.selection import Selection
from clipdex.search.topk import RowNorms, Search, no_ranking, plain

__all__ = ["Piece", "top_k_of_pieces"]


@dataclass(frozen=True)
class Piece:
    """Rows (n, D) that are searched together with others: their codes, the dead ones among them, their norms."""

    vectors: Array
    codes: Codes | None
    dead: npt.NDArray[np.int64]
    norms: RowNorms


def top_k_of_pieces(
    pieces: Sequence[Piece],
    queries: npt.NDArray[np.float32],
    k: Sequence[int],
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    minimum: Sequence[float],
    excluded: Sequence[npt.NDArray[np.int64]],
    check: Callable[[], None] = lambda: None,
) -> list[Ranking]:
    """Find what `top_k` finds in the pieces' rows one after the other, without joining them.

    The pieces share their candidates: each is scanned for what may be better than the rows before, and the few
    that are left are scored once, at the end.

    Args:
        pieces: of one width and dtype.
        queries: float32 (Q, D), of norm 1.
        allowed: flags of all rows.
        k, minimum, excluded: of each query; excluded rows are numbered piece after piece.
        check: as for `top_k`.

    Raises:
        UnsoundRow: as `top_k`.
    """
    vectors = PartedVectors([plain(piece.vectors) for piece in pieces], queries.shape[1])
    firsts = vectors.firsts.tolist()
    flags = [None if allowed is None else allowed[a:b] for a, b in pairwise(firsts)]
    chosen = [
        Selection.of(len(piece.vectors), some, piece.dead) for piece, some in zip(pieces, flags, strict=True)
    ]
    each = Each.of(len(queries), k, minimum, excluded, sum(some.count for some in chosen))
    answers = [no_ranking() for _ in queries]
    turn = turns(each)
    for start in range(0, len(queries), turn):
        some = start + np.flatnonzero(each.k[start : start + turn] > 0)
        if len(some):
            asked = np.ascontiguousarray(queries[some], dtype=np.float32)
            joined = _Joined(vectors, pieces, chosen, asked, each.at(some), check)
            for q, answer in zip(some, joined.run(), strict=True):
                answers[q] = answer
    return answers


class _Joined(Search):
    """A search of several pieces that share their candidates."""

    def __init__(
        self,
        vectors: PartedVectors,
        pieces: Sequence[Piece],
        chosen: Sequence[Selection],
        queries: npt.NDArray[np.float32],
        each: Each,
        check: Callable[[], None],
    ) -> None:
        dropped = [some.dropped + first for some, first in zip(chosen, vectors.firsts, strict=False)]
        rest = Selection(len(vectors), 0, None, np.concatenate([np.empty(0, np.int64), *dropped]))
        norms = RowNorms(unit=any(piece.norms.unit for piece in pieces))
        super().__init__(cast(Array, vectors), queries, each, None, rest, norms, check)
        self._searches = [
            Search(
                own,
                queries,
                each.within(first, end),
                piece.codes,
                some,
                piece.norms,
                check,
                self._candidates,
                first,
            )
            for own, piece, some, (first, end) in zip(
                vectors.arrays, pieces, chosen, pairwise(vectors.firsts.tolist()), strict=True
            )
            if some.count
        ]
        self._covered = sum(search._covered for search in self._searches)

    @cached_property
    def _cold(self) -> bool:
        return any(search._cold for search in self._searches)

    def scan(self) -> int:
        """Scan the pieces, one after the other -> the number of threads that were worth it."""
        threads = 1
        for search in self._searches:
            try:
                threads = max(threads, search.scan())
            except UnsoundRow as exc:
                raise UnsoundRow(exc.row + search._begin) from exc
        return threads

    def _want(self, rows: npt.NDArray[np.int64]) -> None:
        for search in self._searches:
            low, high = np.searchsorted(rows, (search._begin, search._begin + len(search._vectors)))
            if low < high and search._cold:
                search._want(rows[low:high] - search._begin)
