"""Top-k over rows on disk: what it takes and gives, filters and tombstones, and an index's search above it."""

import tracemalloc

import numpy as np
import pytest
from conftest import unit_vectors
from search_cases import Case, small_pieces, truth

import clipdex
from clipdex.index import Index, IndexWriter, Manifest, Picture
from clipdex.search import topk
from clipdex.search.cosines import UnsoundRow
from clipdex.search.estimates import RowNorms
from clipdex.search.quantize import MemoryCodes
from clipdex.search.topk import top_k

pytestmark = pytest.mark.thin

NONE_DEAD = np.empty(0, np.int64)


@pytest.mark.parametrize("coded", [False, True], ids=["rows", "codes"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("queries", [1, 3, 50])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_it_is_what_sorting_gives(dtype, queries, k, coded):
    vectors, asked = unit_vectors(3000, 32).astype(dtype), unit_vectors(queries, 32, seed=1)
    codes = MemoryCodes.of(vectors) if coded else None
    case = Case("random", vectors, asked, k, codes, None, NONE_DEAD, -np.inf)
    for found, (scores, rows) in zip(case.search(), truth(case), strict=True):
        assert found.rows.tolist() == rows
        assert found.scores.tolist() == scores
        assert (found.scores.dtype, found.rows.dtype) == (np.float64, np.int64)


def test_equal_scores_stand_by_row(monkeypatch):
    small_pieces(monkeypatch)
    vectors = np.zeros((2000, 4), np.float32)
    vectors[:, 0] = 0.5
    vectors[1500:1510, 0] = 1.0
    (found,) = top_k(vectors, np.eye(1, 4, dtype=np.float32), 14)
    assert found.rows.tolist() == [*range(1500, 1510), 0, 1, 2, 3]


def test_dead_rows_never_appear():
    vectors, asked = unit_vectors(1000, 16), unit_vectors(4, 16, seed=2)
    dead = np.arange(0, 1000, 3)
    for found in top_k(vectors, asked, 1000, dead=dead):
        assert sorted(found.rows.tolist()) == sorted(set(range(1000)) - set(dead.tolist()))


def test_a_filter_takes_flags_or_numbers():
    vectors, asked = unit_vectors(1000, 16), unit_vectors(2, 16, seed=2)
    flags = unit_vectors(1000, 1, seed=3)[:, 0] > 0
    by_flag = top_k(vectors, asked, 5, allowed=flags, dead=np.array([7]))
    by_number = top_k(vectors, asked, 5, allowed=np.flatnonzero(flags), dead=np.array([7]))
    for one, other in zip(by_flag, by_number, strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        assert flags[one.rows].all()


def test_a_filter_that_keeps_nothing_gives_nothing():
    vectors, asked = unit_vectors(1000, 16), unit_vectors(2, 16)
    for allowed in (np.zeros(1000, bool), np.empty(0, np.int64)):
        assert [len(found.rows) for found in top_k(vectors, asked, 5, allowed=allowed)] == [0, 0]


@pytest.mark.parametrize("allowed", [np.ones(9, bool), np.array([10]), np.array([-1])])
def test_a_filter_that_does_not_fit_is_refused(allowed):
    with pytest.raises(clipdex.InvalidArgument, match="the filter"):
        top_k(unit_vectors(10, 4), unit_vectors(1, 4), 3, allowed=allowed)


def test_the_minimum_is_a_score_that_is_still_given():
    vectors, asked = unit_vectors(1000, 16), unit_vectors(1, 16, seed=2)
    (best,) = top_k(vectors, asked, 20)
    (found,) = top_k(vectors, asked, 20, minimum=float(best.scores[7]))
    assert found.rows.tolist() == best.rows[:8].tolist()
    (found,) = top_k(vectors, asked, 20, minimum=float(np.nextafter(best.scores[7], 2)))
    assert found.rows.tolist() == best.rows[:7].tolist()
    assert len(top_k(vectors, asked, 20, minimum=1.5)[0].rows) == 0


def test_what_is_not_finite_is_refused_in_a_query_and_passed_over_in_a_row():
    vectors = unit_vectors(100, 8)
    vectors[3, 5], vectors[4, 0] = np.nan, np.inf
    (found,) = top_k(vectors, unit_vectors(1, 8), 100)
    assert sorted(found.rows.tolist()) == sorted(set(range(100)) - {3, 4})
    for bad in (np.nan, np.inf):
        with pytest.raises(clipdex.InvalidArgument, match="NaN"):
            top_k(vectors, np.full((1, 8), bad, np.float32), 3)


@pytest.mark.parametrize("size", [1e38, 1e-44])
def test_a_query_may_be_so_long_or_short_that_its_square_is_not_a_number(size):
    vectors, asked = unit_vectors(3000, 8), unit_vectors(1, 8, seed=1)
    huge = (asked * np.float32(size)).astype(np.float32)
    assert np.isfinite(huge).all()
    case = Case("random", vectors, huge, 5, MemoryCodes.of(vectors), None, NONE_DEAD, -np.inf)
    assert case.search()[0].rows.tolist() == truth(case)[0][1]


def test_a_query_of_zeros_finds_the_first_rows():
    vectors = unit_vectors(100, 8)
    vectors[0, 0] = np.nan
    zero, other = np.zeros((1, 8), np.float32), unit_vectors(1, 8)
    found = top_k(vectors, np.concatenate((zero, other, zero)), 3, dead=np.array([2]))
    assert [f.rows.tolist() for f in found[::2]] == [[1, 3, 4]] * 2
    assert found[1].rows.tolist() == top_k(vectors, other, 3, dead=np.array([2]))[0].rows.tolist()


@pytest.mark.parametrize(
    "turned",
    [
        lambda v: v.astype(">f4"),
        lambda v: v.astype(np.float64),
        np.asfortranarray,
        lambda v: np.repeat(v, 2, axis=0)[::2],
        lambda v: np.repeat(v, 2, axis=1)[:, ::2],
    ],
    ids=["other byte order", "float64", "columns", "every other row", "every other column"],
)
@pytest.mark.parametrize("queries", [1, 9])
def test_rows_in_another_form(turned, queries):
    vectors, asked = unit_vectors(300, 16), unit_vectors(queries, 16, seed=1)
    for found, right in zip(top_k(turned(vectors), asked, 9), top_k(vectors, asked, 9), strict=True):
        assert found.rows.tolist() == right.rows.tolist()


def test_no_rows_and_no_queries():
    assert len(top_k(np.empty((0, 4), np.float32), unit_vectors(2, 4), 0)[1].rows) == 0
    assert top_k(unit_vectors(5, 4), np.empty((0, 4), np.float32), 3) == []


@pytest.mark.slow
@pytest.mark.parametrize("coded", [False, True], ids=["rows", "codes"])
def test_many_queries_take_little_memory(monkeypatch, coded):
    """Before there is a floor, too: 2,048 rows for 1,024 queries would be two million pairs."""
    monkeypatch.setattr("clipdex.search.topk.cores", lambda: 1)
    vectors, asked = unit_vectors(20_000, 16).astype(np.float16), unit_vectors(1024, 16, seed=1)
    codes = MemoryCodes.of(vectors) if coded else None
    tracemalloc.start()
    try:
        top_k(vectors, asked, 10, codes=codes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 60e6


def test_norms_that_are_kept_change_nothing():
    vectors, asked = unit_vectors(5000, 16).astype(np.float16), unit_vectors(1, 16, seed=1)
    norms = RowNorms()
    first = top_k(vectors[:3000], asked, 10, norms=norms)
    again = top_k(vectors[:3000], asked, 10, norms=norms)
    assert again[0].rows.tolist() == first[0].rows.tolist()
    grown = top_k(vectors, asked, 10, norms=norms)
    assert grown[0].rows.tolist() == top_k(vectors, asked, 10)[0].rows.tolist()


def test_a_row_that_rotted_since_it_was_coded_is_refused_wherever_it_stands(monkeypatch):
    """By its code it may be among the best: it is scored first, or left for later."""
    monkeypatch.setattr(topk, "_SCORED_FIRST", 8)
    vectors = unit_vectors(2000, 16).astype(np.float16)
    vectors[40:80] = vectors[40]
    codes, query = MemoryCodes.of(vectors), vectors[40:41].astype(np.float32)
    for row in range(40, 80):
        rotten = vectors.copy()
        rotten[row] *= np.float16(0.5)
        with pytest.raises(UnsoundRow) as refused:
            top_k(rotten, query, 3, codes=codes, norms=RowNorms(unit=True))
        assert refused.value.row == row


@pytest.fixture
def index(tmp_path):
    with IndexWriter.open_or_create(tmp_path / "x", Manifest("f" * 64, "demo", 8)) as writer:
        writer.append([Picture(b"/%d" % i, 1, 2, bytes(16), 3, 4) for i in range(6)], unit_vectors(6, 8))
    with Index.open(tmp_path / "x") as opened:
        yield opened


def test_a_search_gives_hits_for_every_query(index):
    queries = unit_vectors(6, 8)
    answers = index.search(queries, top_k=2)
    assert [hits[0].row for hits in answers] == list(range(6))
    assert answers[0][0].score == pytest.approx(1, abs=1e-3)
    assert answers[0][0].path == "/0"
    (alone,) = index.search(queries[0], top_k=2)
    assert [hit.row for hit in alone] == [hit.row for hit in answers[0]]


def test_without_a_number_five_or_all(index):
    assert len(index.search(unit_vectors(1, 8))[0]) == 5
    with IndexWriter.open_or_create(index.directory, index.manifest) as writer:
        for i in range(4):
            writer.remove(b"/%d" % i)
    index.refresh()
    assert len(index.search(unit_vectors(1, 8))[0]) == 2


@pytest.mark.parametrize("k", [0, -1])
def test_a_number_out_of_range_is_refused(index, k):
    with pytest.raises(clipdex.InvalidArgument, match="expected a whole number of hits, 1 or more"):
        index.search(unit_vectors(1, 8), top_k=k)


def test_queries_that_do_not_fit_are_refused(index):
    with pytest.raises(clipdex.InvalidArgument, match="vectors of 8 numbers"):
        index.search(unit_vectors(1, 9))
    with pytest.raises(clipdex.InvalidArgument, match="NaN"):
        index.search(np.full((1, 8), np.nan))
