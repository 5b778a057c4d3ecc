"""Queries of one scan: each with its own number of hits, minimum score and rows left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clipdex.base.arguments import row_numbers
from clipdex.base.arrays import Array, Vectors
from clipdex.base.errors import InvalidArgument
from clipdex.index.hits import unsound
from clipdex.index.ranker import Ranker
from clipdex.search.cosines import UnsoundRow
from clipdex.search.estimates import RowNorms
from clipdex.search.exact import Ranking
from clipdex.search.quantize import Codes
from clipdex.search.topk import top_k as exact_top_k

__all__ = ["DEFAULT_TOP_K", "Asked", "View", "asked_of"]

DEFAULT_TOP_K = 5


@dataclass(frozen=True)
class Asked:
    """One query of an index, checked.

    query: float32 (D,). offset: how many of the best hits to skip. depth: how many to find, those skipped
    included. minimum: of a score. excluded: rows left out, int64.
    """

    query: Vectors
    offset: int
    depth: int
    minimum: float
    excluded: npt.NDArray[np.int64]


def asked_of(
    wide: Vectors,
    live: int,
    rows: int,
    top_k: int | None,
    offset: int,
    min_score: float | None,
    exclude: Sequence[int] | Array,
) -> list[Asked]:
    """Join queries (Q, D) with options that are checked already, but for `exclude`.

    Args:
        live, rows: how many rows the index has, without and with the dead.
        top_k, offset, min_score, exclude: as for `Index.search`.

    Raises:
        InvalidArgument: `exclude` has a row that does not exist.
    """
    left_out = row_numbers(exclude, "exclude", or_flags=False)
    if len(left_out) and not 0 <= left_out.min() <= left_out.max() < rows:
        raise InvalidArgument(f"exclude has a row that does not exist; expected 0 to {rows - 1}")
    depth = offset + (min(DEFAULT_TOP_K, live) if top_k is None else top_k)
    minimum = -np.inf if min_score is None else min_score
    return [Asked(query, offset, depth, minimum, left_out) for query in wide]


@dataclass(frozen=True)
class View:
    """The rows of an index as of one moment. They stay valid, whatever becomes of the index.

    codes: of the first rows, if there are any. generation: as the index's. check: called before each piece of the
    work of ranking them, in any thread; what it raises ends that.
    """

    directory: Path
    vectors: Array
    codes: Codes | None
    dead: npt.NDArray[np.int64]
    norms: RowNorms
    generation: object
    check: Callable[[], None] = lambda: None

    def ranked(self, asked: Sequence[Asked], allowed: Array | None, ann: Ranker | None = None) -> list[Ranking]:
        """Rank the rows for several queries in one scan: for each, exactly what a scan of its own gives.

        Args:
            allowed: as `Index.allowed` gives it.
            ann: ranks them instead; all must then have the same options.

        Raises:
            IndexDamaged: a row that might have been a hit of one of them is not finite or not of norm 1.
        """
        if not asked:
            return []
        queries = np.stack([one.query for one in asked])
        excluded: list[npt.NDArray[np.int64]] | None = [one.excluded for one in asked]
        dead, first = self.dead, asked[0]
        if all(one.excluded is first.excluded for one in asked):
            # Left out for all alike: then they are not even looked at, sound or not.
            dead = np.union1d(dead, first.excluded) if len(first.excluded) else dead
            excluded = None
        try:
            if ann is not None:
                minimum = first.minimum
                return ann.rank(self.vectors, queries, first.depth, allowed=allowed, dead=dead, minimum=minimum)
            return exact_top_k(
                self.vectors,
                queries,
                [min(one.depth, len(self.vectors)) for one in asked],
                codes=self.codes,
                allowed=allowed,
                dead=dead,
                minimum=[one.minimum for one in asked],
                excluded=excluded,
                norms=self.norms,
                check=self.check,
            )
        except UnsoundRow as exc:
            raise unsound(self.directory, exc.row) from exc
