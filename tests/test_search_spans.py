"""How the rows of a search are cut: every row once, in few pieces where pieces cost more than they share."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from conftest import unit_vectors

from clipdex.search import topk
from clipdex.search.quantize import MemoryCodes
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


def test_a_thread_scans_few_coded_rows_in_few_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit_vectors(40_000, 16).astype(np.float16)
    codes = MemoryCodes.of(vectors, block_rows=16_384)
    scanned = []
    sift = topk.Search._sift
    monkeypatch.setattr(
        topk.Search, "_sift", lambda self, span, *scores: scanned.append(len(span)) or sift(self, span, *scores)
    )
    for threads, most in ((1, 3), (2, 6), (4, 9)):
        scanned.clear()
        monkeypatch.setattr(topk, "cores", lambda threads=threads: threads)
        monkeypatch.setattr(topk, "_WORTH_THREADS", 1)
        query = unit_vectors(1, 16, seed=5)
        (found,) = topk.top_k(vectors, query, 10, codes=codes)
        assert found.rows.tolist() == topk.top_k(vectors, query, 10)[0].rows.tolist()
        scanned.clear()
        topk.top_k(vectors, query, 10, codes=codes)
        assert sum(scanned) == 40_000
        assert len(scanned) <= 1 + most
