"""What every ranker does: exact search, and what approximates it. A new one is put into RANKERS, and must pass."""

import numpy as np
import pytest
from conftest import unit_vectors
from drawn_index import drawn_index

from clipdex.index import Index, optimize_index

ROWS, DIM, K = 3000, 32, 10


# Each makes an index ready and gives what loads a ranker for `Index.search(..., ann=...)`, or None for its own.


def exact(path):
    return None


def with_codes(path):
    optimize_index(path)
    return None


def approximate(path):
    pytest.importorskip("faiss")
    from clipdex import ann

    ann.build_ann(path)
    return ann.AnnIndex.open


RANKERS = {"exact": exact, "exact, int8 codes": with_codes, "FAISS": approximate}


@pytest.fixture(scope="module", params=RANKERS.values(), ids=list(RANKERS))
def searched(request, tmp_path_factory):
    path = drawn_index(tmp_path_factory.mktemp("ranker") / "x.clipdex", ROWS, DIM)
    load = request.param(path)
    with Index.open(path) as index:
        yield index, load and load(index)


def asked(searched, queries, k=K, **options):
    index, ranker = searched
    return index.search(queries, k, ann=ranker, **options)


def test_the_best_come_first_and_no_row_twice(searched):
    for hits in asked(searched, unit_vectors(4, DIM, seed=5)):
        scores = [hit.score for hit in hits]
        assert len(hits) == K and scores == sorted(scores, reverse=True)
        assert len({hit.row for hit in hits}) == K


def test_a_score_is_the_cosine(searched):
    index, _ = searched
    (query,) = queries = unit_vectors(1, DIM, seed=6)
    for hit in asked(searched, queries)[0]:
        assert hit.score == pytest.approx(float(index.vector(hit.row) @ query), abs=2e-3)


def test_a_row_finds_itself(searched):
    index, _ = searched
    for row in (0, ROWS // 2, ROWS - 1):
        vector = np.asarray(index.vector(row), dtype=np.float32)
        assert asked(searched, (vector / np.linalg.norm(vector))[None])[0][0].row == row


def test_only_allowed_rows_are_named(searched):
    (hits,) = asked(searched, unit_vectors(1, DIM, seed=7), where=np.arange(0, ROWS, 7))
    assert hits and all(hit.row % 7 == 0 for hit in hits)


def test_excluded_rows_are_not_named(searched):
    queries = unit_vectors(1, DIM, seed=8)
    first = [hit.row for hit in asked(searched, queries)[0]]
    second = [hit.row for hit in asked(searched, queries, exclude=first)[0]]
    assert not set(first) & set(second)


def test_a_least_score_is_kept_to(searched):
    queries = unit_vectors(1, DIM, seed=9)
    least = asked(searched, queries)[0][4].score
    assert all(hit.score >= least for hit in asked(searched, queries, min_score=least)[0])


def test_more_than_there_are_gives_what_there_is(searched):
    (hits,) = asked(searched, unit_vectors(1, DIM, seed=10), k=50, where=np.arange(20))
    assert 0 < len(hits) <= 20
