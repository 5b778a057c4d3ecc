"""Queries: weights behind words, and the arithmetic of mixtures."""

import re
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, noise, unit_vectors
from drawn_index import drawn_index

import clipdex
from clipdex import FingerprintMismatch, Index, InvalidArgument, Query, mix
from clipdex.search import weighted_name, weighted_text
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


@pytest.mark.parametrize(
    ("word", "text", "weight"),
    [
        ("beach", "beach", 1),
        ("beach:0.5", "beach", 0.5),
        ("beach:2", "beach", 2),
        ("beach:-.25", "beach", -0.25),
        ("a photo: a cat", "a photo: a cat", 1),
        ("ratio 16:9", "ratio 16:9", 1),
        ("at 12:30", "at 12:30", 1),
        ("ratio 16:9:0.5", "ratio 16:9", 0.5),
        ("summer 1999:1.5", "summer 1999", 1.5),
        ("scale:1.0:1.0", "scale:1.0", 1),
        ("a:b:c", "a:b:c", 1),
        ("beach:1e3", "beach:1e3", 1),
        ("beach: 0.5", "beach: 0.5", 1),
        ("two\nlines:0.5", "two\nlines", 0.5),
    ],
)
def test_a_weight_behind_a_text(word, text, weight):
    assert weighted_text(word) == (text, weight)


@pytest.mark.parametrize(
    ("word", "name", "weight"),
    [
        ("17", "17", 1),
        ("17:2", "17", 2),
        ("a1.jpg:3", "a1.jpg", 3),
        ("C:/a.jpg", "C:/a.jpg", 1),
        ("a:2:1", "a:2", 1),
    ],
)
def test_a_weight_behind_a_name(word, name, weight):
    assert weighted_name(word) == (name, weight)


@pytest.mark.parametrize("word", ["", " ", ":0.5", "beach:0", "beach:-0.0", "beach:9999999", "beach:" + "9" * 400])
def test_what_is_no_part_of_a_query(word):
    with pytest.raises(InvalidArgument, match=r"empty|weight"):
        weighted_text(word)


def test_a_mixture_is_the_sum_of_unit_vectors_renormalised():
    parts = unit_vectors(3, 8) * np.array([[1], [7], [0.01]])  # their lengths do not matter
    weights = [1.0, -0.5, 2.0]
    unit = parts.astype(np.float64) / np.linalg.norm(parts.astype(np.float64), axis=1, keepdims=True)
    expected = unit[0] - 0.5 * unit[1] + 2 * unit[2]
    found = mix(list(parts), weights)
    assert found.shape == (1, 8) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), atol=1e-6)


def test_one_part_is_its_own_direction_or_the_opposite():
    (vector,) = unit_vectors(1, 8)
    np.testing.assert_allclose(mix([vector], [3.0])[0], vector, atol=1e-7)
    np.testing.assert_allclose(mix([vector], [-3.0])[0], -vector, atol=1e-7)


def test_what_cannot_be_mixed():
    a, b = unit_vectors(2, 8)
    for vectors, weights, says in [
        ([a, a], [1.0, -1.0], "cancel"),
        ([a, a.astype(np.float16)], [1.0, -1.0], "cancel"),
        ([], [], "0 parts"),
        ([a, b], [1.0], "2 parts and 1 weight"),
        ([a, b[:4]], [1.0, 1.0], "shapes"),
        ([a, np.zeros(8, np.float32)], [1.0, 1.0], "zeros"),
        ([a, np.full(8, np.nan, np.float32)], [1.0, 1.0], "zeros or contains NaN"),
    ]:
        with pytest.raises(InvalidArgument, match=says):
            mix(vectors, weights)


def test_a_query_embeds_its_parts_and_mixes_them(fake, tmp_path):
    path = tmp_path / "ref.png"
    noise(1).save(path)
    index = drawn_index(tmp_path / "x.clipdex", fingerprint=fake.card.fingerprint)
    query = Query().plus(text="beach").minus(text="people", weight=2).plus(image=path, weight=0.5).plus(like=7)
    with Index.open(index) as opened:
        found = query.embed(fake, opened)
        beach, people = fake.embed_texts(["beach", "people"])
        (picture,) = fake.embed_images([path])
        expected = mix([beach, people, picture, opened.vectors[7]], [1, -2, 0.5, 1])
    np.testing.assert_array_equal(found, expected)
    assert str(query) == f"beach − 2 × people + 0.5 × {path} + row 7"


def test_parts_are_embedded_in_one_request_a_kind(tmp_path):
    transport = FakeTransport()
    with clipdex.Client(transport) as client:
        query = Query().plus(text="a").plus(image=noise(1)).minus(text="b").plus(image=noise(2))
        assert query.embed(client).shape == (1, 8)
    assert transport.requests[-2:] == [("fake_text", 2), ("fake_image", 2)]


def test_more_like_an_indexed_picture_needs_no_server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Index.open(drawn_index(tmp_path / "x.clipdex")) as index:
        for query in (Query().plus(like=4), Query().plus(like="/p/even/004.jpg")):
            vector = query.embed(index=index)
            assert query.liked_rows(index) == [4]
            assert index.search(vector, 1)[0][0].row == 4
        for unknown in (40, -1, "/p/even/005.jpg", "odd/005.jpg"):
            with pytest.raises(InvalidArgument, match=r"has no picture in row|is not a picture in"):
                Query().plus(like=unknown).embed(index=index)


def test_a_path_is_meant_from_the_current_folder(tmp_path, monkeypatch):
    path = str(tmp_path / "caf\udce9.jpg").encode("utf-8", "surrogateescape")
    index = drawn_index(tmp_path / "x.clipdex", rows=1, path=[path])
    monkeypatch.chdir(tmp_path)
    with Index.open(index) as opened:
        assert opened.row("caf\udce9.jpg") == opened.row("./caf\udce9.jpg") == 0


def test_a_query_says_what_it_lacks(fake, tmp_path):
    with pytest.raises(InvalidArgument, match="no client was given"):
        Query().plus(text="a").embed()
    with pytest.raises(InvalidArgument, match="no index was given"):
        Query().plus(like=3).embed()
    with pytest.raises(InvalidArgument, match="0 parts"):
        Query().embed()
    wrong: list[dict[str, Any]] = [{}, {"text": "a", "image": "b.jpg"}]
    for given in wrong:
        with pytest.raises(InvalidArgument, match="one of text, image and like"):
            Query().plus(**given)
    with pytest.raises(InvalidArgument, match="empty"):
        Query().plus(text="  ")
    for weight in (0, float("nan"), float("inf")):
        with pytest.raises(InvalidArgument, match="weight"):
            Query().plus(text="a", weight=weight)
    with Index.open(drawn_index(tmp_path / "x.clipdex")) as index, pytest.raises(FingerprintMismatch):
        Query().plus(text="a").embed(fake, index)


def test_a_query_for_asyncio_is_the_same(fake):
    query = Query().plus(text="a").plus(image=noise(1)).minus(text="b")
    found = query.mixed(fake.embed_texts(query.texts), fake.embed_images(query.images))
    np.testing.assert_array_equal(found, query.embed(fake))
    texts = Query().plus(text="a")
    np.testing.assert_array_equal(
        texts.mixed(fake.embed_texts(texts.texts), fake.embed_images(texts.images)), texts.embed(fake)
    )


def test_the_python_of_the_search_page_runs(fake, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "search.md").read_text()
    first, second = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    noise(1).save(tmp_path / "ref.jpg")
    metadata = ['{"tags": ["red"]}'] * 40
    vectors = fake.embed_texts([str(i) for i in range(40)])
    drawn_index(tmp_path / "photos.clipdex", vectors=vectors, metadata=metadata, fingerprint=fake.card.fingerprint)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clipdex, "connect", lambda address: fake)
    names: dict[str, Any] = {}
    exec(compile(first, "search.md", "exec"), names)
    assert re.fullmatch(r"(0\.\d+ /p/\S+\n){1,10}", capsys.readouterr().out)
    exec(compile(second.replace("1000", "300"), "search.md", "exec"), names)
    assert names["rows"].tolist() == list(range(30, 40))
    assert {hit.row for hit in names["hits"][0]} == set(range(30, 40))
