"""What a search is asked with: of norm 1, of the index's own space, and with all of its text."""

import pickle
import warnings

import numpy as np
import pytest
from conftest import unit_vectors

import clipdex
from clipdex import Embeddings, TextCut
from clipdex.base.errors import FingerprintMismatch, InvalidArgument
from clipdex.client.client import Client
from clipdex.index import Index, IndexWriter, Manifest, Picture
from clipdex.search import Query, mix
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

DIM = 16
SPACE, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def index(tmp_path):
    with IndexWriter.open_or_create(tmp_path / "x.clipdex", Manifest(SPACE, "demo", DIM)) as writer:
        writer.append(
            [Picture(b"/%d.png" % i, 1, 1, bytes([i] * 16), 9, 9) for i in range(3)], unit_vectors(3, DIM)
        )
        writer.commit()
    with Index.open(tmp_path / "x.clipdex") as opened:
        yield opened


ONE = unit_vectors(1, DIM, seed=1)[0]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (3 * ONE, "query 0 has norm 3"),
        (np.stack([ONE, 1.002 * ONE]), "query 1 has norm 1.002"),
        (0 * ONE, "query 0 has norm 0"),
        (np.eye(1, DIM, dtype=np.int64), "the queries are int64"),
        (ONE.astype(complex), "the queries are complex"),
        (np.full(DIM, np.nan, np.float32), "NaN"),
    ],
)
def test_a_query_is_floats_of_norm_one(index, query, words):
    with pytest.raises(InvalidArgument, match=words):
        index.search(query)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rounding_is_no_other_norm(index, dtype):
    unit = ONE.astype(np.float64) / np.linalg.norm(ONE.astype(np.float64))
    assert len(index.search((unit * 1.0009).astype(dtype))[0]) == 3


def test_vectors_of_another_model_are_refused_and_both_are_named(index):
    with pytest.raises(FingerprintMismatch, match=r"demo \(aaaaaaaaaaaa\).*\(bbbbbbbbbbbb\)"):
        index.search(Embeddings.of(ONE, OTHER))
    assert len(index.search(Embeddings.of(ONE, SPACE))[0]) == 3
    assert len(index.search(ONE)[0]) == 3


def fingerprint(vectors):
    assert isinstance(vectors, Embeddings)
    return vectors.fingerprint


def test_an_index_gives_its_vectors_with_its_fingerprint(index):
    assert index.vector(0).fingerprint == SPACE
    assert fingerprint(Query().plus(like=0).embed(index=index)) == SPACE


def test_a_client_gives_its_vectors_with_its_fingerprint():
    with Client(FakeTransport()) as client:
        space = client.card.fingerprint
        assert client.embed_texts(["a"]).fingerprint == client.embed_texts([]).fingerprint == space
        assert client.embed_images([np.zeros((9, 9, 3), np.uint8)]).fingerprint == space
        assert client.embed_pixels(np.zeros((2, *[client.card.image.size] * 2, 3), np.uint8)).fingerprint == space
        assert fingerprint(Query().plus(text="a").minus(text="b").embed(client)) == space


def test_a_batcher_gives_its_vectors_with_their_fingerprint():
    with Client(FakeTransport()) as client, clipdex.Batcher(client) as batcher:
        assert batcher.text("a").result().fingerprint == client.card.fingerprint


def test_a_mixture_of_two_spaces_is_refused():
    texts, images = Embeddings.of(ONE[None], SPACE), Embeddings.of(ONE[None], OTHER)
    with pytest.raises(FingerprintMismatch):
        Query().plus(text="a").plus(image="b.png").mixed(texts, images)


def test_what_keeps_a_fingerprint_and_what_has_none():
    two = Embeddings.of(unit_vectors(2, DIM), SPACE)
    for kept in (two[0], two[:1], two[::-1], two.reshape(-1), two.copy(), two.T, pickle.loads(pickle.dumps(two))):
        assert type(kept) is Embeddings and kept.fingerprint == SPACE
    assert np.array_equal(pickle.loads(pickle.dumps(two)), two)
    other = Embeddings.of(unit_vectors(2, DIM), OTHER)
    for plain in (
        two + other,
        two.mean(axis=0),
        two @ two.T,
        np.concatenate([two, other]),
        np.stack([two, two]),
        -two,
    ):
        assert type(plain) is np.ndarray
    assert isinstance(mix([two[0], two[1]], [1, 1]), np.ndarray)
    assert float(two[0, 0]) == float(np.asarray(two)[0, 0])
    assert type(two.dot(two.T)) is np.ndarray
    mixed = two.copy()
    mixed[0] = two[1]
    assert mixed.fingerprint == SPACE
    mixed[0] = other[1]
    assert mixed.fingerprint is None
    added = two.copy()
    np.add.at(added, 0, 1)
    assert added.fingerprint is None
    two *= 2
    assert two.fingerprint is None


def test_vectors_of_two_models_are_not_mixed():
    with pytest.raises(FingerprintMismatch):
        mix([Embeddings.of(ONE, SPACE), Embeddings.of(ONE, OTHER)], [1, 1])
    assert fingerprint(mix([Embeddings.of(ONE, SPACE)] * 2, [1, 1])) == SPACE


def test_what_a_model_gave_within_its_rounding_can_be_searched(index):
    assert len(index.search(Embeddings.of(1.009 * ONE, SPACE))[0]) == 3
    with pytest.raises(InvalidArgument, match="norm"):
        index.search(Embeddings.of(1.02 * ONE, SPACE))


# top_k


def test_case_08_a_top_k_above_the_number_of_pictures_gives_what_there_is(index):
    for options in ({}, {"min_score": -1}, {"where": "width = 9"}):
        assert len(index.search(ONE, top_k=50, **options)[0]) == 3
    assert index.search(ONE, top_k=50, offset=2)[0] == index.search(ONE, top_k=3)[0][2:]


@pytest.mark.parametrize("top_k", [0, -1, 5.0, True, "5"])
def test_a_top_k_that_is_no_count(index, top_k):
    with pytest.raises(InvalidArgument, match=r"top_k is .*; expected a whole number"):
        index.search(ONE, top_k=top_k)


def test_other_numbers_that_are_none(index):
    with pytest.raises(InvalidArgument, match="offset"):
        index.search(ONE, offset="a")
    with pytest.raises(InvalidArgument, match="min_score"):
        index.search(ONE, min_score="a")


# Texts beyond the context

LONG = "a black heart " * 40


def test_case_05_a_text_that_is_cut_is_told_in_python():
    with Client(FakeTransport()) as client:
        with pytest.warns(TextCut, match="longer than the model's context of .* tokens") as told:
            client.embed_texts(["short", LONG])
        assert "text 1 of 2" in str(told[0].message)
        assert told[0].filename == __file__
        lost = client.lost(["short", LONG])
        assert lost[0] == "" and lost[1] and LONG.strip().endswith(lost[1].strip())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            client.embed_texts(["short"])
            with pytest.raises(TextCut):
                client.embed_texts([LONG + "no, rather a yellow star"])


def test_case_05_a_text_that_is_cut_is_told_by_batcher():
    with Client(FakeTransport()) as client, clipdex.Batcher(client) as batcher, pytest.warns(TextCut):
        batcher.text(LONG).result()
