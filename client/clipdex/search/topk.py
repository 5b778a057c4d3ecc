"""Exact top-k by inner product over rows on disk, in bounded memory, on all cores.

Rows and queries have norm 1, so the inner product is the cosine. First every row gets bounds for its score, from
its int8 code where it has one, else from the row itself; only the few that may be among the best are scored in
float64. docs/search-engine.md says why the result is exactly that of scoring all rows.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument
from clipdex.search.candidates import Candidates
from clipdex.search.cosines import UnsoundRow, not_unit, off_unit
from clipdex.search.each import Each, turns
from clipdex.search.estimates import Estimates, FloatEstimates, RowNorms
from clipdex.search.exact import Ranking, rank_quietly, wide_scores
from clipdex.search.found import Found
from clipdex.search.int8_estimates import Int8Estimates, LoneEstimates
from clipdex.search.kernels import scratch
from clipdex.search.quantize import WIDEST, Codes
from clipdex.search.readahead import Readahead, in_memory, want_rows
from clipdex.search.selection import Selection, absent
from clipdex.search.spans import Span, cores, even_spans_of, spans_of, work_through

__all__ = ["Ranking", "RowNorms", "Search", "no_ranking", "plain", "top_k"]

_ROWS_FOR_ONE = 65_536  # one query: what belongs to so many rows, beside the rows, stays in a core's cache
_ROWS_FOR_MANY = 2048  # 64 queries or more: so do the rows' products with 64 of them
_SPANS = 3  # of a thread, if there are few rows: more would share the work more evenly, but each has a fixed cost
_SPANS_OF_CODES = 2
_ROWS_SCORED = 1 << 19  # one query: so many coded rows are scored before the best of them are looked for
_PIECES, _ROWS_PIECE = 2, 32_768  # pieces of those for a thread, and the rows of one: threads start and end apart
_SEED_ROWS = 2048
_SEED_PAIRS = 1 << 18
_SPAN_BYTES = 40 << 20

_WORTH_THREADS = 1 << 23  # with fewer numbers to multiply, threads cost more than they save

_REFINE_FROM = 2048  # with this many candidates, a query gets bounds from the rows themselves before scoring

_SCORED_FIRST = 64  # with more, so many of the most promising are scored before the others: these hardly ever are

_WANTED = 4096  # rows requested from the disk at once before they are scored

_ANYWHERE = 1 << 62


def top_k(
    vectors: Array,
    queries: npt.NDArray[np.float32],
    k: int | Sequence[int],
    *,
    codes: Codes | None = None,
    allowed: Array | None = None,
    dead: npt.NDArray[np.int64] | None = None,
    minimum: float | Sequence[float] = -np.inf,
    excluded: Sequence[npt.NDArray[np.int64]] | None = None,
    norms: RowNorms | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[Ranking]:
    """Find the k rows with the largest inner product with each query, in exact order; equal scores by row.

    A query's answer does not depend on the others, which share the reading of the rows with it.

    Args:
        vectors: (N, D) of float16 or float32, a memmap or an array; read once, from front to back, for every
            thousand queries. Rows of another dtype are rounded to float32 first, all at once.
        queries: float32 (Q, D), finite.
        k: rows per query, or one number for each query; fewer are returned if fewer are allowed, reach the
            minimum, or are finite.
        codes: int8 codes of the first rows; they save time and do not change the result.
        allowed: the rows to rank: flags, bool (N,), or row numbers, without duplicates (default: all).
        dead: rows to leave out, ascending.
        minimum: minimum score, or one for each query.
        excluded: rows to leave out of the answer of each query, beside the dead.
        norms: kept between searches of the same rows, it saves time in later ones.
        check: called before each piece of the work, in any thread; what it raises ends the search.

    Raises:
        InvalidArgument: a query is not finite, or `allowed` does not match the rows.
        UnsoundRow: `norms` says that all rows are of norm 1, and one that may be ranked was read and is not:
            without codes any row, with codes those that `optimize` gave none for this, and those that were scored.
    """
    vectors = plain(vectors)
    if not _finite(queries):
        raise InvalidArgument("a query contains NaN or infinity")
    selection = Selection.of(len(vectors), allowed, dead)
    each = Each.of(len(queries), k, minimum, excluded, selection.count)
    norms = RowNorms() if norms is None else norms
    answers: list[Ranking | None] = [None] * len(queries)
    turn = turns(each)
    for start in range(0, len(queries), turn):
        asked = np.ascontiguousarray(queries[start : start + turn], dtype=np.float32)
        nonzero = np.logical_or.reduce(asked, axis=1)
        some = start + (nonzero & (each.k[start : start + turn] > 0)).nonzero()[0]
        if len(some):
            if len(some) < len(asked):
                asked = asked[some - start]
            search = Search(vectors, asked, each.at(some), codes, selection, norms, check)
            for q, answer in zip(some, search.run(), strict=True):
                answers[q] = answer
        # If a query is all zeros, so are its scores.
        for q in start + np.flatnonzero(~nonzero) if len(some) < len(nonzero) else ():
            answers[q] = _of_zero(vectors, selection, each.at(np.array([q])))
    return [no_ranking() if answer is None else answer for answer in answers]


def _finite(queries: npt.NDArray[np.float32]) -> bool:
    """Return whether no number is NaN or infinite."""
    if len(queries) > 1:
        return bool(np.isfinite(queries).all())
    wide = queries.astype(np.float64).reshape(-1)  # which the squares of float32 do not overflow
    return math.isfinite(wide @ wide)


def plain(vectors: Array) -> Array:
    """Turn rows into a plain array, cheaper to slice than a memmap, in a form that the kernels accept."""
    vectors = np.asarray(vectors)
    if vectors.dtype.char not in "ef" or not vectors.dtype.isnative:
        vectors = vectors.astype(np.float16 if vectors.dtype.itemsize == 2 else np.float32)
    return vectors if vectors.strides[-1] == vectors.itemsize else np.ascontiguousarray(vectors)


def no_ranking() -> Ranking:
    """A ranking of nothing."""
    return Ranking(np.empty(0), np.empty(0, np.int64))


def _of_zero(vectors: Array, selection: Selection, each: Each) -> Ranking:
    """Rank the first k finite rows for one zero query: all score 0."""
    parts: list[npt.NDArray[np.int64]] = []
    wanted = 0 if each.minimum[0] > 0 else int(each.k[0])
    for rows in selection.pieces():
        rows = rows if each.excluded is None else rows[absent(rows, np.sort(each.excluded[0]))]
        for start in range(0, len(rows), 4096):
            if wanted == 0:
                break
            piece = rows[start : start + 4096]
            parts.append(piece[np.isfinite(vectors[piece]).all(axis=1)][:wanted])
            wanted -= len(parts[-1])
    rows = np.concatenate(parts) if parts else np.empty(0, np.int64)
    return Ranking(np.zeros(len(rows)), rows)


class Search:
    """One scan of the rows for several queries, none of them zero."""

    def __init__(
        self,
        vectors: Array,
        queries: npt.NDArray[np.float32],
        each: Each,
        codes: Codes | None,
        selection: Selection,
        norms: RowNorms,
        check: Callable[[], None],
        shared: Candidates | None = None,
        begin: int = 0,
    ) -> None:
        """shared: candidates that it adds to, with rows numbered from `begin`."""
        self._vectors, self._queries, self._each, self._begin = vectors, queries, each, begin
        self._selection, self._norms, self._check = selection, norms, check
        self._excluded = each.pairs(len(vectors))
        self._excluded_rows = np.unique(self._excluded % len(vectors)) if len(self._excluded) else self._excluded
        # A power of two for each query: with its largest number near 1, nothing significant underflows in float32.
        self._exponents = np.frexp(np.maximum.reduce(np.abs(queries), axis=1))[1]
        self._scaled = queries * np.ldexp(1.0, -self._exponents)[:, None]
        self._candidates = shared or Candidates(vectors, queries, self._exponents, each.k, each.minimum)
        self._start = self._candidates.floor
        self._codes, self._covered = codes, 0
        self._coded: Int8Estimates | LoneEstimates
        if codes is not None and codes.rows and vectors.shape[1] <= WIDEST:
            self._covered = min(codes.rows, len(vectors))
            if len(queries) == 1:
                self._coded = self._lone = LoneEstimates(codes, self._scaled[0])
            else:
                self._coded = Int8Estimates(codes, self._scaled)

    @cached_property
    def _plain(self) -> FloatEstimates:
        return FloatEstimates(self._vectors, self._scaled, self._norms, self._refusing())

    def _refusing(self) -> Callable[[npt.NDArray[np.int64]], None]:
        """`_refuse` without a reference to the search, which would keep the vectors mapped until a collection."""
        search = weakref.proxy(self)
        return lambda rows: search._refuse(rows)

    def _refuse(self, rows: npt.NDArray[np.int64]) -> None:
        """Raise UnsoundRow if one of these rows, not finite or not of norm 1, might have been a hit."""
        for row in self._selection.among(rows):
            raise UnsoundRow(int(row))

    @cached_property
    def _cold(self) -> bool:
        """Whether rows must be read from disk when they are scored."""
        return self._covered > 0 and not in_memory(self._vectors)

    def run(self) -> list[Ranking]:
        """Scan all rows, then score those that may be among the best."""
        with np.errstate(all="ignore"):
            return self._ranked(self.scan())

    def scan(self) -> int:
        """Scan all rows -> the number of threads that were worth it."""
        work = self._selection.count * self._vectors.shape[1] * len(self._queries)
        threads = cores() if work >= _WORTH_THREADS else 1
        if self._covered:
            assert self._codes is not None
            width = self._codes.stored.nbytes / self._codes.rows
            share = threads if self._coded.parallel else 1
            self._scan(0, self._covered, self._codes.block_rows, share, self._codes.stored, width)
        if self._covered < len(self._vectors):
            width = self._vectors.itemsize * self._vectors.shape[1]
            share = threads if self._plain.parallel else 1
            self._scan(self._covered, len(self._vectors), _ANYWHERE, share, self._vectors[self._covered :], width)
        return threads

    def _scan(self, first: int, end: int, border: int, threads: int, stored: Array, width: float) -> None:
        """Scan rows [first, end), stored with `width` bytes per row; no span crosses a multiple of `border`."""
        chosen = self._selection.chosen
        begin = first

        def ahead_of(span: Span) -> None:
            self._check()
            ahead.reading(int((span.first - begin) * width))

        def sift(span: Span) -> None:
            ahead_of(span)
            self._sift(span)

        step = max(_ROWS_FOR_MANY, min(_ROWS_FOR_ONE, 64 * _ROWS_FOR_MANY // len(self._queries)))
        coded = first < self._covered
        if not coded or chosen is not None:
            step = min(step, max(_ROWS_FOR_MANY, (end - first) // (_SPANS * threads)))
        step = max(RowNorms.ROWS, step - step % RowNorms.ROWS)
        while step * width > _SPAN_BYTES and step > RowNorms.ROWS:
            step //= 2
        # Scattered rows are not read ahead.
        with Readahead(stored if chosen is None else stored[:0]) as ahead:
            if len(self._queries) > 1:
                # A few rows first, to give all threads a floor to begin with. Until there is one, every pair may
                # be kept, so many queries look at still fewer at a time.
                for seed in spans_of(first, end, _SEED_ROWS, border, chosen):
                    few = max(1, _SEED_PAIRS // len(self._queries))
                    for part in spans_of(seed.first, seed.end, few, border, chosen):
                        ahead_of(part)
                        self._sift(part, rising=True)
                    first = seed.end
                    break
            if coded and chosen is None and len(self._queries) == 1:
                for part in spans_of(first, end, _ROWS_SCORED, _ANYWHERE):
                    self._scan_for_one(part, step, border, threads, ahead_of)
                return
            if coded and chosen is None:
                count = _SPANS_OF_CODES * threads
                spans = even_spans_of(first, end, step, border, count, _ROWS_FOR_MANY)
            else:
                spans = spans_of(first, end, step, border, chosen)
            work_through(spans, sift, threads)

    def _scan_for_one(
        self, part: Span, step: int, border: int, threads: int, reading: Callable[[Span], None]
    ) -> None:
        """Scan coded rows for a single query: all threads multiply them, then this thread finds the best.

        What follows the products is many short calls, for which threads would have to wait for each other.
        """
        products = scratch("part", len(part), np.float32)

        def of(span: Span) -> npt.NDArray[np.float32]:
            return products[span.first - part.first : span.end - part.first]

        def multiply(span: Span) -> None:
            reading(span)
            if self._sound(span):
                self._lone.products(span, of(span))

        count, step = (1, step) if threads == 1 else (_PIECES * threads, min(step, _ROWS_PIECE))
        work_through(even_spans_of(part.first, part.end, step, border, count, _ROWS_FOR_MANY), multiply, threads)
        for sound, blocks in groupby(spans_of(part.first, part.end, border, border), self._sound):
            spans = list(blocks)
            for span in [Span(spans[0].first, spans[-1].end)] if sound else spans:
                # Once there is a floor, a span's own rows hardly ever raise it.
                rising = self._candidates.floor is self._start
                self._sift(span, of(span) if sound else None, rising)

    def _sound(self, span: Span) -> bool:
        """Whether the block of codes that a span lies in is undamaged."""
        assert self._codes is not None
        return self._codes.block(span.first // self._codes.block_rows) is not None

    def _sift(self, span: Span, products: npt.NDArray[np.float32] | None = None, rising: bool = False) -> None:
        """Add what may be among the best in a span.

        products: those of a single query with the codes of the span, whose blocks are sound.
        rising: whether to look for better floors in the span itself; for a single query without products, this is
            always done.
        """
        coded = products is not None or (span.first < self._covered and self._sound(span))
        estimates: Estimates = self._coded if coded else self._plain
        floor = self._candidates.floor
        rising = rising or (products is None and len(self._queries) == 1)
        counted = (self._each.k, self._left_out(span)) if rising else ()
        if products is not None:
            found = self._lone.sift_products(span, products, floor, *counted)
        else:
            found = estimates.sift(span, floor, *counted)
        if self._norms.unit and coded:
            rows = self._coded.uncoded(span)
            if len(rows):
                self._refuse(rows[not_unit(self._vectors[rows])])
        found = self._selection.keep(found)
        if len(self._excluded) and len(found):
            found = found.where(absent(found.query * len(self._vectors) + found.row, self._excluded))
        if self._begin:
            found = Found(found.query, found.row + self._begin, found.lower, found.upper)
        self._candidates.add(found, rising)

    def _left_out(self, span: Span) -> npt.NDArray[np.int64]:
        """Where in a span rows are that may not be found for each query."""
        dropped = span.places(self._selection.dropped)
        if len(self._excluded_rows) == 0:
            return dropped
        return np.concatenate([dropped, span.places(self._excluded_rows)])

    def _ranked(self, threads: int) -> list[Ranking]:
        found = self._candidates.taken()
        if len(self._queries) == 1:
            return [self._rank(0, found)]
        order = found.by_query()
        borders = np.searchsorted(found.query[order], np.arange(len(self._queries) + 1))
        answers = [no_ranking()] * len(self._queries)

        def rank_some(span: Span) -> None:
            for q in range(span.first, span.end):
                mine = found.where(order[borders[q] : borders[q + 1]])
                answers[q] = self._rank(q, mine)

        work_through(spans_of(0, len(answers), 8, _ANYWHERE), rank_some, threads if len(answers) > 8 else 1)
        return answers

    def _rank(self, q: int, found: Found) -> Ranking:
        """Score as few rows as necessary."""
        self._check()
        k, query = int(self._each.k[q]), self._queries[q]
        if self._cold:
            self._want(np.sort(found.row)[:_WANTED])
        if len(found) > max(_REFINE_FROM, 4 * k) and self._covered:
            found = self._refined(q, found)
        if len(found) > max(_SCORED_FIRST, 4 * k):
            rows = self._promising(q, found)
        else:
            rows = found.row
            self._require_unit(rows)
        return rank_quietly(self._vectors, query, rows, k, float(self._each.minimum[q]))

    def _promising(self, q: int, found: Found) -> npt.NDArray[np.int64]:
        """Score the rows with the largest upper bounds -> the rows, of all, that may still be among the best."""
        k, count, exponent = int(self._each.k[q]), len(found), int(self._exponents[q])
        others = count - max(_SCORED_FIRST, 2 * k)
        order = found.upper.argpartition(others)
        best = found.row[order[others:]]
        scores, error, squares = wide_scores(self._vectors, self._queries[q], best)
        if self._norms.unit:
            self._refuse(best[off_unit(squares)])
        error *= 2
        sure = np.fmax(scores - error, -np.inf)
        sure.partition(len(best) - k)
        kth = float(sure[len(best) - k])
        scores += error
        rows: npt.NDArray[np.int64] = best[scores >= kth]
        rest = order[:others]
        rest = rest[found.upper[rest] >= math.ldexp(kth, -exponent)]
        if len(rest) == 0:
            return rows
        self._require_unit(found.row[rest])
        return np.concatenate([rows, found.row[rest]])

    def _require_unit(self, rows: npt.NDArray[np.int64]) -> None:
        """Raise UnsoundRow if a row that may be ranked is not of norm 1, and all must be.

        It may have been damaged since its code or norm was computed, so that its bounds are wrong.
        """
        if self._norms.unit:
            self._refuse(rows[not_unit(self._vectors[rows])])

    def _want(self, rows: npt.NDArray[np.int64]) -> None:
        """Ask the disk for rows, ascending."""
        want_rows(self._vectors, rows)

    def _refined(self, q: int, found: Found) -> Found:
        """Replace bounds by those from the rows themselves, which are much tighter."""
        floor = self._candidates.floor[q : q + 1]
        plain = FloatEstimates(self._vectors, self._scaled[q : q + 1], self._norms, self._refusing())
        parts = []
        for start in range(0, len(found), _ROWS_FOR_ONE):
            rows = np.sort(found.row)[start : start + _ROWS_FOR_ONE]
            parts.append(plain.sift(Span(int(rows[0]), int(rows[-1]) + 1, rows), floor))
        return Found.joined(parts)
