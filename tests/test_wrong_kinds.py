"""What is of a wrong kind is refused in one sentence, and by no error of Python's own."""

# mypy: disable-error-code="arg-type, list-item, dict-item"
# mypy finds what this file is about.

import asyncio

import numpy as np
import pytest
from conftest import noise, unit_vectors
from drawn_index import drawn_index

import clipdex
from clipdex import Batcher, Client, Credentials, Grouping, Index, Query, RetryPolicy
from clipdex.aio import AsyncClient
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

SIZE = 32
PIXELS = np.zeros((1, SIZE, SIZE, 3), np.uint8)
IDS = np.zeros((1, 64), np.int32)
NOBODY = "127.0.0.1:1"


async def embedded_by_asyncio(pixels):
    async with AsyncClient(lambda: Client(FakeTransport())) as clip:
        await clip.embed_pixels(pixels)


OF_A_CLIENT = {
    "pixels: a list": (lambda c: c.embed_pixels([PIXELS[0]]), "takes pixels as an array .*, not list"),
    "pixels: None": (lambda c: c.embed_pixels(None), "not NoneType"),
    "pixels: a path": (lambda c: c.embed_pixels("cat.jpg"), "not str"),
    "pixels: a number": (lambda c: c.embed_pixels(np.uint8(1)), "not uint8"),
    "pixels: no dimension": (lambda c: c.embed_pixels(np.array(1, np.uint8)), r"this one is uint8 \(\)"),
    "pixels: float": (lambda c: c.embed_pixels(PIXELS / 255), r"this one is float64 \(1, 32, 32, 3\)"),
    "pixels: one": (lambda c: c.embed_pixels(PIXELS[0]), r"this one is uint8 \(32, 32, 3\)"),
    "pixels: channels first": (lambda c: c.embed_pixels(np.zeros((1, 3, 32, 32), np.uint8)), "3, 32, 32"),
    "pixels: none, of floats": (lambda c: c.embed_pixels(np.zeros((0, SIZE, SIZE, 3))), "this one is float64"),
    "pixels for asyncio": (lambda _: asyncio.run(embedded_by_asyncio([1])), "not list"),
    "a batch of a list": (lambda c: c.submit_pixels([1]), "not list"),
    "a batch of nothing": (lambda c: c.submit_pixels(PIXELS[:0]), "the batch of pixels is empty"),
    "a deadline: True": (lambda c: c.submit_pixels(PIXELS, True), "timeout_s is True"),
    "tokens: a list": (lambda c: c.submit_tokens([[1]]), r"int32 and shape \(N, 64\), not list"),
    "tokens: floats": (lambda c: c.submit_tokens(IDS / 2), "this one is float64"),
    "tokens: another length": (lambda c: c.submit_tokens(IDS[:, :5]), r"this one is int32 \(1, 5\)"),
    "tokens: nothing": (lambda c: c.submit_tokens(IDS[:0]), "the batch of token ids is empty"),
    "texts: numbers": (lambda c: c.embed_texts([1]), "texts contains int"),
    "labels: numbers": (lambda c: c.classify([noise(0)], [1, 2]), "labels contains int"),
    "labels: one text": (lambda c: c.classify([noise(0)], "cat"), "labels is a single string"),
    "templates: numbers": (lambda c: c.classify([noise(0)], ["a", "b"], templates=[3]), "templates contains int"),
    "icc of no pictures": (lambda c: c.embed_images([], icc="sRGB"), "icc is 'sRGB'"),
    "a batcher of an address": (lambda _: Batcher(NOBODY), "expected a Client"),
    "a batcher's size: text": (lambda c: Batcher(c, max_batch_size="3"), "max_batch_size is '3'"),
    "a batcher's size: 2.5": (lambda c: Batcher(c, max_batch_size=2.5), "max_batch_size is 2.5"),
    "a batcher's wait: text": (lambda c: Batcher(c, max_wait_s="1"), "max_wait_s is '1'"),
    "a client of an address": (lambda _: Client(NOBODY), "clipdex.connect makes a Client"),
    "a cache: a number": (lambda _: Client(FakeTransport(), cache_dir=3), "cache_dir is 3"),
    "a cache: nothing": (lambda _: Client(FakeTransport(), cache_dir=""), "cache_dir is ''"),
    "credentials: a token": (lambda _: clipdex.connect(NOBODY, credentials="t"), "credentials is str"),
    "retry: a number": (lambda _: clipdex.connect(NOBODY, retry=3), "retry is int"),
    "on_request: a number": (lambda _: clipdex.connect(NOBODY, on_request=3), "on_request is int"),
    "a policy: text": (lambda _: RetryPolicy(max_attempts="3"), "max_attempts of a RetryPolicy is '3'"),
    "a policy: None": (lambda _: RetryPolicy(backoff_s=None), "backoff_s of a RetryPolicy is None"),
    "a policy: nan": (lambda _: RetryPolicy(not_found_s="x"), "not_found_s of a RetryPolicy is 'x'"),
    "tls: a file": (lambda _: Credentials(tls="ca.pem"), "tls is str"),
    "a token: bytes": (lambda _: Credentials(token=b"t"), "the token is bytes"),
    "a header: a number": (lambda _: Credentials(headers={"x-a": 3}), "headers is not a dict of strings"),
    "a weight: text": (lambda _: Query().plus(text="a", weight="2"), "has the weight '2'"),
    "a weight taken off: text": (lambda _: Query().minus(text="a", weight="2"), "has the weight '2'"),
    "a mixture of nothing": (lambda _: clipdex.mix(None, None), "a list of vectors and a list of weights"),
    "a mixture: texts": (lambda _: clipdex.mix(np.eye(2), ["a", "b"]), "a weight of the query is not a number"),
    "grouping by text": (lambda _: Grouping(cosine="0.9"), "to group by is '0.9'"),
}


@pytest.mark.parametrize(("use", "says"), OF_A_CLIENT.values(), ids=OF_A_CLIENT)
def test_a_client_refuses_what_is_of_a_wrong_kind(fake, use, says):
    with pytest.raises(clipdex.InvalidArgument, match=says) as refused:
        use(fake)
    assert "\n" not in str(refused.value)


QUERY = unit_vectors(1, 8)

OF_AN_INDEX = {
    "queries of two lengths": (lambda i: i.search([[1.0], [0.6, 0.8]]), "lists of different lengths"),
    "top_k: text": (lambda i: i.search(QUERY, "3"), "top_k is '3'"),
    "min_score: True": (lambda i: i.search(QUERY, min_score=True), "min_score is True"),
    "min_score: text": (lambda i: i.search(QUERY, min_score="0"), "min_score is '0'"),
    "where: a number": (lambda i: i.search(QUERY, where=3), "the filter is int, 3; expected rows"),
    "where: bytes": (lambda i: i.search(QUERY, where=b"row = 1"), "the filter is bytes"),
    "where: half rows": (lambda i: i.search(QUERY, where=[1.5]), "the filter is list"),
    "where: half rows in an array": (lambda i: i.search(QUERY, where=np.array([1.5])), "of float64 and shape"),
    "where: texts": (lambda i: i.search(QUERY, where=["row = 1"]), "the filter is list"),
    "where: ragged": (lambda i: i.search(QUERY, where=[[1], [2, 3]]), "the filter is list"),
    "params: a list": (lambda i: i.search(QUERY, where="row = :r", params=[1]), "parameters are list"),
    "params without a condition": (lambda i: i.search(QUERY, params={"r": 1}), "params was given"),
    "exclude: a number": (lambda i: i.search(QUERY, exclude=3), "exclude is int"),
    "exclude: None": (lambda i: i.search(QUERY, exclude=None), "exclude is NoneType"),
    "exclude: texts": (lambda i: i.search(QUERY, exclude=["a"]), "exclude is list"),
    "exclude: half rows": (lambda i: i.search(QUERY, exclude=[1.5]), "exclude is list"),
    "exclude: flags": (lambda i: i.search(QUERY, exclude=[True]), "exclude is list"),
    "exclude: beyond 64 bits": (lambda i: i.search(QUERY, exclude=np.array([2**64 - 1])), "does not exist"),
    "grouping: True": (lambda i: i.search(QUERY, grouping=True), "expected clipdex.Grouping"),
    "ann: True": (lambda i: i.search(QUERY, ann=True), "expected clipdex.ann.AnnIndex.open"),
    "a condition: None": (lambda i: i.where(None), "the filter is NoneType"),
    "a row: None": (lambda i: i.row(None), "not NoneType"),
    "a row: 1.5": (lambda i: i.vector(1.5), "not float"),
    "a row: True": (lambda i: i.row(True), "not bool"),
    "a picture: text": (lambda i: i.picture("a"), "has no row 'a'"),
    "an index: None": (lambda _: Index.open(None), "is None; expected a path"),
}


@pytest.mark.parametrize(("use", "says"), OF_AN_INDEX.values(), ids=OF_AN_INDEX)
def test_an_index_refuses_what_is_of_a_wrong_kind(tmp_path, use, says):
    with (
        Index.open(drawn_index(tmp_path / "x.clipdex")) as index,
        pytest.raises(clipdex.InvalidArgument, match=says) as refused,
    ):
        use(index)
    assert "\n" not in str(refused.value)


def test_rows_may_be_a_list_a_range_flags_or_none(tmp_path):
    with Index.open(drawn_index(tmp_path / "x.clipdex")) as index:
        flags = np.arange(40) < 3
        for rows in ([0, 1, 2], (0, 1, 2), range(3), flags, flags.tolist(), np.arange(3, dtype=np.uint64)):
            assert {hit.row for hit in index.search(QUERY, 40, where=rows)[0]} == {0, 1, 2}
        assert index.search(QUERY, where=[]) == [[]]
        for rows in ([0, 1, 2], range(3), np.arange(3, dtype=np.uint64)):
            assert {hit.row for hit in index.search(QUERY, 40, exclude=rows)[0]} == set(range(3, 40))
        assert len(index.search(QUERY, 40, exclude=[])[0]) == 40


def test_a_cache_may_be_named_by_a_text(tmp_path):
    with Client(FakeTransport(), cache_dir=str(tmp_path)) as client:
        client.embed_texts(["a"])
    assert (tmp_path / "assets").is_dir()
