"""Exact top-k: what a full sort would give, ties by row, in blocks."""

import numpy as np
import pytest
from conftest import unit_vectors

import clipdex
from clipdex.index import Index, IndexWriter, Manifest, Picture
from clipdex.search import topk
from clipdex.search.topk import top_k

pytestmark = pytest.mark.thin


def assert_is_what_sorting_gives(vectors, queries, scores, rows, dead=()):
    """The rows' scores in float64 are the k best there are; float32 may swap two that differ by its rounding."""
    exact = queries.astype(np.float64) @ vectors.astype(np.float64).T
    exact[:, list(dead)] = -np.inf
    best = -np.sort(-exact, axis=1)[:, : rows.shape[1]]
    np.testing.assert_allclose(np.take_along_axis(exact, rows, axis=1), best, atol=2e-7)
    np.testing.assert_allclose(scores, best, atol=2e-7)
    assert all(len(set(row)) == len(row) for row in rows.tolist())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("queries", [1, 3, 50])
@pytest.mark.parametrize("k", [1, 10, 700])
def test_it_is_what_sorting_gives(dtype, queries, k, monkeypatch):
    monkeypatch.setattr(topk, "_BLOCK_BYTES", 1 << 15)  # several blocks
    vectors = unit_vectors(1000, 32).astype(dtype)
    asked = unit_vectors(queries, 32, seed=1)
    scores, rows = top_k(vectors, asked, k)
    assert rows.shape == (queries, k)
    assert_is_what_sorting_gives(vectors, asked, scores, rows)
    assert scores.dtype == np.float32
    assert (np.diff(scores, axis=1) <= 0).all()


def test_equal_scores_stand_by_row(monkeypatch):
    monkeypatch.setattr(topk, "_BLOCK_BYTES", 1 << 12)
    vectors = np.zeros((2000, 4), np.float32)
    vectors[:, 0] = 0.5
    vectors[1500:1510, 0] = 1.0
    _, rows = top_k(vectors, np.eye(1, 4, dtype=np.float32), 14)
    assert rows[0].tolist() == [*range(1500, 1510), 0, 1, 2, 3]


def test_dead_rows_never_appear(monkeypatch):
    monkeypatch.setattr(topk, "_BLOCK_BYTES", 1 << 14)
    vectors, asked = unit_vectors(1000, 16), unit_vectors(4, 16, seed=2)
    dead = np.arange(0, 1000, 3)
    scores, rows = top_k(vectors, asked, 50, dead=dead)
    assert_is_what_sorting_gives(vectors, asked, scores, rows, dead)
    _, everything = top_k(vectors, asked, 1000 - len(dead), dead=dead)
    assert not np.isin(everything, dead).any()


def test_no_rows_and_no_queries():
    assert top_k(np.empty((0, 4), np.float32), unit_vectors(2, 4), 0)[1].shape == (2, 0)
    assert top_k(unit_vectors(5, 4), np.empty((0, 4), np.float32), 3)[1].shape == (0, 3)


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


@pytest.mark.parametrize("k", [0, -1, 7])
def test_a_number_out_of_range_is_refused(index, k):
    with pytest.raises(clipdex.InvalidArgument, match="expected 1 to 6"):
        index.search(unit_vectors(1, 8), top_k=k)


def test_queries_that_do_not_fit_are_refused(index):
    with pytest.raises(clipdex.InvalidArgument, match="vectors of 8 numbers"):
        index.search(unit_vectors(1, 9))
    with pytest.raises(clipdex.InvalidArgument, match="NaN"):
        index.search(np.full((1, 8), np.nan))
