"""How the rows of a search are cut: every row once, in few pieces where pieces cost more than they share."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
from conftest import unit_vectors

from clipdex.search import topk
from clipdex.search.candidates import Candidates
from clipdex.search.found import Found
from clipdex.search.int8_estimates import LoneEstimates
from clipdex.search.quantize import MemoryCodes
from clipdex.search.sifting import reached
from clipdex.search.spans import even_spans_of

pytestmark = pytest.mark.thin


def test_even_spans_hold_every_row_once_within_the_grid() -> None:
    for first, end, grid, count in itertools.product(
        (0, 7, 99), (99, 100, 101, 640), (10, 64, 1 << 62), (1, 2, 3, 32)
    ):
        spans = list(even_spans_of(first, end, 50, grid, count, 8))
        assert [row for span in spans for row in range(span.first, span.end)] == list(range(first, end))
        assert all(0 < len(span) <= 50 for span in spans)
        assert all(span.first // grid == (span.end - 1) // grid for span in spans)
        lengths: dict[int, set[int]] = {}
        for span in spans:
            lengths.setdefault(span.first // grid, set()).add(len(span))
        assert all(max(some) - min(some) <= 1 for some in lengths.values())


def test_a_hundred_thousand_coded_rows_are_shared_by_two_threads_in_four_spans() -> None:
    spans = list(even_spans_of(2048, 100_000, 65_536, 65_536, 4, 2048))
    assert [len(span) for span in spans] == [31_744, 31_744, 17_232, 17_232]


def test_a_query_is_answered_in_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call has a fixed cost: a product for two spans of a thread, and one for all their rows together."""
    vectors = unit_vectors(40_000, 16).astype(np.float16)
    query = unit_vectors(1, 16, seed=5)
    right = topk.top_k(vectors, query, 10)[0].rows.tolist()
    whole = MemoryCodes.of(vectors, block_rows=16_384)
    damaged = MemoryCodes(whole.basis, [whole.blocks[0], None, whole.blocks[2]], whole.rows, whole.block_rows)
    calls: dict[str, list[int]] = {"products": [], "_sift": []}

    def count(owner: type, name: str) -> None:
        act = getattr(owner, name)
        noted = calls[name]
        monkeypatch.setattr(
            owner, name, lambda self, span, *more: noted.append(len(span)) or act(self, span, *more)
        )

    count(LoneEstimates, "products")
    count(topk.Search, "_sift")
    monkeypatch.setattr(topk, "_WORTH_THREADS", 1)
    for codes, sifted in ((whole, [40_000]), (damaged, [16_384, 16_384, 7_232])):
        for threads, most in ((1, 3), (2, 6), (4, 9)):
            monkeypatch.setattr(topk, "cores", lambda threads=threads: threads)
            for noted in calls.values():
                noted.clear()
            (found,) = topk.top_k(vectors, query, 10, codes=codes)
            assert found.rows.tolist() == right
            assert calls["_sift"] == sifted
            assert sum(calls["products"]) == (40_000 if codes is whole else 23_616)
            assert len(calls["products"]) <= most


def test_a_query_makes_few_calls_beside_its_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of functions of Python: the data of each is no longer in the cache after the products."""
    vectors = unit_vectors(40_000, 16).astype(np.float16)
    codes, query = MemoryCodes.of(vectors, block_rows=16_384), unit_vectors(1, 16, seed=5)
    monkeypatch.setattr(topk, "cores", lambda: 1)
    topk.top_k(vectors, query, 10, codes=codes)
    called: list[str] = []
    sys.setprofile(lambda frame, event, what: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        topk.top_k(vectors, query, 10, codes=codes)
    finally:
        sys.setprofile(None)
    assert len(called) < 190, Counter(called).most_common()


def test_what_a_query_needs_beside_products_is_done_by_the_thread_that_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Threads that make many short calls wait for each other."""
    pytest.importorskip("numkong")  # NumPy's products are shared out by BLAS
    vectors = unit_vectors(20_000, 16).astype(np.float16)
    codes = MemoryCodes.of(vectors, block_rows=4096)
    multiplying, adding = set(), set()
    products, add = LoneEstimates.products, Candidates.add

    def multiplied(self, span, *to):
        multiplying.add(threading.get_ident())
        time.sleep(0.02)
        return products(self, span, *to)

    monkeypatch.setattr(LoneEstimates, "products", multiplied)
    monkeypatch.setattr(Candidates, "add", lambda *given: adding.add(threading.get_ident()) or add(*given))
    monkeypatch.setattr(topk, "_WORTH_THREADS", 1)
    monkeypatch.setattr(topk, "cores", lambda: 2)
    topk.top_k(vectors, unit_vectors(1, 16, seed=5), 10, codes=codes)
    assert len(multiplying) == 2
    assert adding == {threading.get_ident()}


@pytest.mark.parametrize(("count", "returned"), [(5, 5), (2000, 2)], ids=["few", "many"])
def test_the_floor_of_a_lone_query_is_raised_where_it_is_asked_for_and_where_it_drops_many(
    count, returned
) -> None:
    def candidates() -> Candidates:
        made = Candidates(
            np.zeros((count, 4), np.float32),
            np.ones((1, 4), np.float32),
            np.zeros(1, np.int32),
            np.array([2]),
            np.array([-np.inf]),
        )
        made.add(Found.of_one(np.arange(count), np.arange(count, dtype=float), np.full(count, 0.25), -np.inf))
        return made

    assert len(candidates().taken()) == returned
    asked = candidates()
    assert asked.floor.tolist() == [count - 2.25]
    assert asked.taken().row.tolist() == [count - 2, count - 1]


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("minimum", [-np.inf, -0.9])
@pytest.mark.parametrize(("queries", "dead"), [(1, 0), (1, 2048), (40, 0)])
def test_the_first_rows_give_a_floor_that_few_pairs_reach(coded, minimum, queries, dead, monkeypatch) -> None:
    """Whatever the least score is: the best of the first rows themselves, of those that are not dead."""
    vectors = unit_vectors(6000, 64).astype(np.float16)
    codes = MemoryCodes.of(vectors, block_rows=2048) if coded else None
    kept: list[int] = []
    add = Candidates.add
    monkeypatch.setattr(Candidates, "add", lambda self, found, *r: kept.append(len(found)) or add(self, found, *r))
    asked = unit_vectors(queries, 64, seed=5)
    topk.top_k(vectors, asked, 10, codes=codes, minimum=minimum, dead=np.arange(dead))
    assert max(kept) < 100 * queries


def test_what_is_reached_is_reached_by_k_rows_that_count() -> None:
    rng = np.random.default_rng(0)
    for count, n, k in itertools.product((1, 3), (5, 600, 9000), (1, 4, 600)):
        scores = rng.standard_normal((n, count)).astype(np.float32)
        scores[rng.integers(0, n, n // 50)] = rng.choice([np.inf, np.nan, -np.inf], (n // 50, count))
        left_out = np.unique(np.concatenate([scores.argmax(axis=0), rng.integers(0, n, n // 10)]))
        before = scores.copy()
        with np.errstate(all="ignore"):
            value = reached(np.full(count, k), scores, left_out)
        np.testing.assert_array_equal(scores, before)
        counted = np.delete(scores, left_out, axis=0)
        counted[~np.isfinite(counted)] = -np.inf
        enough = (counted >= value).sum(axis=0)
        assert ((enough >= k) | np.isneginf(value)).all()
        if n == 9000:  # near the k-th best
            assert (enough < 2 * k + 10).all()
