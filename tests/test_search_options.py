"""What a search may be given beside queries: a least score, a page, a filter, rows to leave out, grouping."""

import numpy as np
import pytest
from conftest import noise, unit_vectors
from drawn_index import drawn_index

import clipdex
from clipdex import Grouping, Index, InvalidArgument
from clipdex.looks.signature import perceptual_signature
from clipdex.search.topk import top_k

pytestmark = pytest.mark.thin

QUERIES = unit_vectors(3, 8, seed=9)


@pytest.fixture
def index(tmp_path):
    path = drawn_index(tmp_path / "x.clipdex", rows=300)
    with clipdex.IndexWriter.open_or_create(path, clipdex.Manifest.read(path)) as writer:
        for row in (7, 100, 299):
            writer.remove(b"/p/%s/%03d.jpg" % (b"odd" if row % 2 else b"even", row))
    with Index.open(path) as index:
        yield index


def brute_force(index, query, allowed=None, least=-1.0):
    """All rows in order: (row, score), by float64, ties by row."""
    scores = index.vectors.astype(np.float64) @ query.astype(np.float64)
    asked = np.arange(300) if allowed is None else np.asarray(allowed)
    rows = [row for row in asked if row not in (7, 100, 299) and scores[row] >= least]
    return sorted(((int(row), float(scores[row])) for row in rows), key=lambda pair: (-pair[1], pair[0]))


def pairs(hits):
    return [(hit.row, hit.score) for hit in hits]


def assert_same(hits, expected):
    assert [hit.row for hit in hits] == [row for row, _ in expected]
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-12)


def test_a_least_score(index):
    for query, hits in zip(QUERIES, index.search(QUERIES, 300, min_score=0.4), strict=True):
        expected = brute_force(index, query, least=0.4)
        assert 3 < len(expected) < 100
        assert_same(hits, expected)
    assert index.search(QUERIES[0], 10, min_score=1.0) == [[]]


def test_a_least_score_is_inclusive(index):
    score = index.search(QUERIES[0], 5)[0][4].score
    assert len(index.search(QUERIES[0], 300, min_score=score)[0]) == 5


def test_pages_follow_each_other_without_gap_or_overlap(index):
    whole = index.search(QUERIES, 297)
    for q in range(3):
        pages = [index.search(QUERIES, 50, offset=offset)[q] for offset in range(0, 350, 50)]
        assert [hit for page in pages for hit in page] == whole[q]
        assert [len(page) for page in pages] == [50] * 5 + [47, 0]


def test_pages_of_equal_scores_stand_by_row(tmp_path):
    vectors = np.repeat(unit_vectors(1, 8), 50, axis=0)
    with Index.open(drawn_index(tmp_path / "x.clipdex", vectors=vectors)) as index:
        rows = [hit.row for offset in range(0, 50, 7) for hit in index.search(vectors[0], 7, offset=offset)[0]]
        assert rows == list(range(50))


@pytest.mark.parametrize(
    ("condition", "allowed"),
    [
        ("row % 100 = 7", [7, 107, 207]),
        ("row < 250", range(250)),
        ("path GLOB '/p/odd/*'", range(1, 300, 2)),
        ("row = 7", []),
        ("0", []),
        ("1", range(300)),
    ],
)
def test_a_filter(index, condition, allowed):
    for query, hits in zip(QUERIES, index.search(QUERIES, 300, where=condition), strict=True):
        assert_same(hits, brute_force(index, query, allowed))
    assert index.search(QUERIES, 20, where=index.where(condition)) == index.search(QUERIES, 20, where=condition)


def test_a_filter_by_flags_and_with_values(index):
    flags = np.arange(300) % 3 == 0
    assert_same(
        index.search(QUERIES[0], 300, where=flags)[0], brute_force(index, QUERIES[0], np.flatnonzero(flags))
    )
    found = index.search(QUERIES[0], 300, where="row IN (:a, :b)", params={"a": 7, "b": 8})
    assert [hit.row for hit in found[0]] == [8]


def test_all_at_once(index):
    expected = brute_force(index, QUERIES[0], [row for row in range(1, 300, 2) if row != 33], least=0.1)
    hits = index.search(QUERIES[0], 10, offset=5, min_score=0.1, where="row % 2 = 1", exclude=[33])[0]
    assert_same(hits, expected[5:15])


def test_excluded_rows_are_no_hits(index):
    first, second = index.search(QUERIES[0], 2)[0]
    assert index.search(QUERIES[0], 1, exclude=[first.row])[0] == [second]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"top_k": 0, "offset": 1}, "top_k is 0"),
        ({"top_k": 2.5}, "expected a whole number"),
        ({"offset": -1}, "offset is -1"),
        ({"min_score": 1.5}, "min_score is 1.5"),
        ({"min_score": float("nan")}, "min_score is nan"),
        ({"exclude": [300]}, "exclude has a row"),
        ({"exclude": [-1]}, "exclude has a row"),
        ({"where": np.array([300])}, "does not exist"),
        ({"where": np.ones(299, bool)}, "one flag for each"),
        ({"where": "colour = 1"}, "no such column"),
    ],
)
def test_what_cannot_be_asked(index, options, says):
    with pytest.raises(InvalidArgument, match=says):
        index.search(QUERIES, **options)


def test_an_empty_index(tmp_path):
    with Index.open(drawn_index(tmp_path / "x.clipdex", rows=0, vectors=np.empty((0, 8), np.float32))) as index:
        assert index.search(QUERIES, where="1", min_score=0.1, grouping=Grouping()) == [[], [], []]
        assert index.where("1").tolist() == []


# Grouping.


@pytest.fixture
def copies(tmp_path):
    """Rows 5 to 14 are one file; 20 to 22 nearly point where 5 does; 40 and 50 look like 30, 50 by chance."""
    vectors = unit_vectors(60, 8, seed=2)
    vectors[40] = vectors[30] + unit_vectors(1, 8, seed=4) * 0.2
    vectors[5:15] = vectors[5]
    vectors[20:23] = vectors[5] + unit_vectors(3, 8, seed=3) * 0.05
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    content = [(5 if 5 <= i < 15 else i).to_bytes(16, "big") for i in range(60)]
    signatures = [perceptual_signature(noise(i, (64, 48))) for i in range(60)]
    picture = noise(30, (64, 48))
    signatures[40] = signatures[50] = perceptual_signature(picture.resize((32, 24)))
    path = drawn_index(
        tmp_path / "x.clipdex",
        vectors=vectors,
        content_hash=content,
        phash=signatures,
        width=[640] * 60,
        height=[480] * 60,
    )
    with Index.open(path) as index:
        yield index


def test_files_of_the_same_bytes_are_one_hit(copies):
    first, *rest = copies.search(copies.vector(5), 50, grouping=Grouping())[0]
    assert first.row == 5
    assert [copy.row for copy in first.copies] == list(range(6, 15))
    assert {copy.score for copy in first.copies} == {first.score}
    assert all(not copy.copies for copy in first.copies)
    assert not {hit.row for hit in rest} & set(range(5, 15))


def test_pictures_that_look_and_mean_the_same_are_one_hit(copies):
    hits = copies.search(copies.vector(30), 50, grouping=Grouping())[0]
    assert (hits[0].row, [copy.row for copy in hits[0].copies]) == (30, [40])
    apart = copies.search(copies.vector(30), 50, grouping=Grouping(similarity=None))[0]
    assert {30, 40} <= {hit.row for hit in apart}


def test_vectors_that_are_near_are_one_hit_where_asked_for(copies):
    near = Grouping(cosine=0.98)
    assert [copy.row for copy in copies.search(copies.vector(5), 5, grouping=near)[0][0].copies] == [
        *range(6, 15),
        *sorted((20, 21, 22), key=lambda row: -float(copies.vector(row) @ copies.vector(5))),
    ]
    assert {20, 21, 22} <= {hit.row for hit in copies.search(copies.vector(5), 5, grouping=Grouping())[0]}


def test_groups_are_paged_like_hits(copies):
    grouping = Grouping(cosine=0.98)
    whole = copies.search(copies.vector(5), 60, grouping=grouping)[0]
    covered = sorted(row for hit in whole for row in (hit.row, *(copy.row for copy in hit.copies)))
    assert covered == list(range(60))
    paged = [copies.search(copies.vector(5), 7, offset=o, grouping=grouping)[0] for o in range(0, 63, 7)]
    assert [hit.row for page in paged for hit in page] == [hit.row for hit in whole]


def test_copies_meet_the_filter_too(copies):
    (hit,) = copies.search(copies.vector(5), 1, where="row % 2 = 0", grouping=Grouping())[0]
    assert (hit.row, [copy.row for copy in hit.copies]) == (6, [8, 10, 12, 14])


def test_more_copies_than_are_looked_at_first(tmp_path):
    """Two files, one of them in 5,000 copies: the search goes on until it has met the other."""
    vectors = np.repeat(unit_vectors(2, 8), (5000, 1), axis=0)
    content = [b"a" * 16] * 5000 + [b"b" * 16]
    with Index.open(drawn_index(tmp_path / "x.clipdex", vectors=vectors, content_hash=content)) as index:
        one, other = index.search(vectors[0], 5, grouping=Grouping())[0]
    assert (one.row, len(one.copies)) == (0, 4999)
    assert (other.row, other.copies) == (5000, ())


@pytest.mark.parametrize(
    "options", [{"cosine": 0}, {"cosine": 1.1}, {"similarity": 0}, {"similarity": float("nan")}]
)
def test_groupings_that_cannot_be(options):
    with pytest.raises(InvalidArgument, match="to group by"):
        Grouping(**options)


@pytest.mark.parametrize("rows", [[1, 2], range(1, 3), np.array([1, 2]), [False, True, True] + [False] * 297])
def test_a_ranker_is_given_an_array_whatever_the_rows_are_given_as(index, rows):
    given = []

    class Noting:
        def require(self, index):
            pass

        def rank(self, vectors, queries, k, *, allowed=None, dead=None, minimum=-np.inf):
            given.append(allowed)
            return top_k(vectors, queries, k, allowed=allowed, dead=dead, minimum=minimum)

    assert {hit.row for hit in index.search(index.vector(0), ann=Noting(), where=rows)[0]} == {1, 2}
    assert all(isinstance(each, np.ndarray) for each in given)
