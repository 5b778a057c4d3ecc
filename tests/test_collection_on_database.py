"""A collection that stands on a vector database answers as one on the index that was pushed into it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise, png, unit_vectors
from drawn_index import drawn_exif
from numpy_sink import NumpySink
from test_collection import Blocking, loop

import clipdex
from clipdex import Collection, IndexWriter, Item, Manifest, Picture, Query
from clipdex.collection import collection as opening
from clipdex.sinks import stored
from clipdex.sinks.payloads import point_id
from clipdex.sinks.push import push
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

__all__ = ["loop"]  # a fixture

URL = "qdrant://db1/photos"


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> NumpySink:
    """The database at every address."""
    made = NumpySink()
    monkeypatch.setattr(opening, "open_sink", lambda url: made)
    monkeypatch.setattr(stored, "_LOOKED_UP_EVERY_S", 0.0)
    return made


@pytest.fixture
def directory(tmp_path: Path, sink: NumpySink) -> Path:
    """Eight items and three pictures of a folder, pushed."""
    where = tmp_path / "x.clipdex"
    with clipdex.Client(FakeTransport()) as client:
        with Collection.open(where, client=client) as pets:
            pets.add([Item(str(i), png(i), metadata={"n": i, "tags": ["red"] if i % 2 else []}) for i in range(8)])
        with IndexWriter(where) as writer:
            pictures = [
                Picture(b"/p/%d.png" % i, 7 + i, i * 10**9, bytes([i]) * 16, 40 + i, 30, None, exif=drawn_exif(i))
                for i in range(3)
            ]
            writer.append(pictures, client.embed_images([noise(20 + i) for i in range(3)]))
    pushed(where, sink)
    return where


def pushed(where: Path, sink: NumpySink) -> None:
    with clipdex.Index.open(where) as index:
        push(index, sink)


@pytest.fixture(params=["blocking", pytest.param("asyncio", marks=pytest.mark.slow)])
def pets(request: pytest.FixtureRequest, directory: Path) -> Iterator[Any]:
    with clipdex.Client(FakeTransport()) as client:
        if request.param == "blocking":
            with Collection.open(URL, client=client) as collection:
                yield collection
        else:
            twin = clipdex.aio.Collection.open(URL, client=client)
            with Blocking(twin, request.getfixturevalue("loop")) as collection:
                yield collection


def shown(hits: Any) -> list[tuple[Any, ...]]:
    return [(hit.path, hit.id, hit.metadata or {}, hit.exif, hit.picture.width, hit.picture.size) for hit in hits]


def test_every_kind_of_search_finds_what_the_index_finds(pets: Any, directory: Path) -> None:
    vector = unit_vectors(1, 8)[0]
    mixture = Query().plus(text="beach").minus(image=png(1)).plus(like="id:4", weight=0.5).minus(like="/p/2.png")
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (("a cat",), {}),
        ((), {"image": png(2)}),
        ((), {"vector": vector, "top_k": 9}),
        ((), {"item": "3", "top_k": 20}),
        ((), {"item": Path("/p/1.png")}),
        ((mixture,), {"top_k": 4}),
        (("a",), {"top_k": 3, "offset": 2}),
        (("a",), {"offset": 11}),
        (("a",), {"min_score": 0.1, "top_k": 11}),
        (("a",), {"where": "has(meta, 'tags', :tag) AND width > :w", "params": {"tag": "red", "w": 3.5}}),
        (("a",), {"where": "taken < '2001-06' OR id = '5'"}),
    ]
    with (
        clipdex.Client(FakeTransport()) as client,
        Collection.open(directory, client=client, read_only=True) as own,
    ):
        for words, options in asked:
            expected, found = own.search(*words, **options), pets.search(*words, **options)
            assert shown(found) == shown(expected) and (found or "offset" in options), (words, options)
            np.testing.assert_allclose([h.score for h in found], [h.score for h in expected], atol=5e-4)
            assert {hit.row for hit in found} <= {-1}
        assert shown(pets.similar("3", top_k=2)) == shown(own.similar("3", top_k=2))
        assert [s.label for s in pets.classify(["a", "b"], item="3")] == [
            s.label for s in own.classify(["a", "b"], item="3")
        ]
        np.testing.assert_allclose(pets.vector("3"), own.vector("3"), atol=1e-3)


@pytest.mark.slow
def test_pictures_are_read_and_listed(pets: Any, directory: Path) -> None:
    with Collection.open(directory, read_only=True) as own:
        for key in ("3", Path("/p/0.png")):
            one, expected = pets.get(key), own.get(key)
            assert expected is not None
            assert (one.id, one.path, one.width, one.height, one.size, one.metadata, one.exif) == (
                expected.id, expected.path, expected.width, expected.height, expected.size, expected.metadata,
                expected.exif,
            )  # fmt: skip
            assert (one.row, abs(one.mtime_ns - expected.mtime_ns) < 1_000) == (-1, True)
    assert pets.get("none") is None and pets.get(Path("/p/9.png")) is None


def test_a_collection_counts_and_iterates(directory: Path) -> None:
    with Collection.open(URL) as pets:
        assert len(pets) == 11 and "3" in pets and "none" not in pets
        assert sorted(pets.ids()) == [str(i) for i in range(8)]
        assert sorted(each.path for each in pets) == [
            *(f"/p/{i}.png" for i in range(3)),
            *(f"id:{i}" for i in range(8)),
        ]
        assert pets.manifest.model == "fake"
        assert repr(pets) == "<clipdex.Collection 'the collection in memory': read-only>"
        assert pets.search(vector=pets.vector("3"), top_k=1)[0].id == "3"


WRONG: dict[str, tuple[type[Exception], Any]] = {
    "adding": (clipdex.InvalidArgument, lambda pets: pets.add(Item("a", png(0)))),
    "adding some": (clipdex.InvalidArgument, lambda pets: pets.add([Item("a", png(0))])),
    "removing": (clipdex.InvalidArgument, lambda pets: pets.remove("3")),
    "changing": (clipdex.InvalidArgument, lambda pets: pets.update_metadata("3", {})),
    "thumbnails": (clipdex.InvalidArgument, lambda pets: pets.thumbnail("3")),
    "matches": (clipdex.InvalidArgument, lambda pets: pets.match(png(0))),
    "rows": (clipdex.InvalidArgument, lambda pets: pets.at([1])),
    "pages by row": (clipdex.InvalidArgument, lambda pets: pets.after(-1, 3)),
    "failures": (clipdex.InvalidArgument, lambda pets: pets.failures(3)),
    "facts": (clipdex.InvalidArgument, lambda pets: pets.info()),
    "moments": (clipdex.InvalidArgument, lambda pets: pets.moment()),
    "holds": (clipdex.InvalidArgument, lambda pets: pets.holds(Item("3", png(3)))),
    "a row": (clipdex.ItemNotFound, lambda pets: pets.similar(3)),
    "an unknown item": (clipdex.ItemNotFound, lambda pets: pets.search(item="none")),
    "an unknown vector": (clipdex.ItemNotFound, lambda pets: pets.vector("none")),
    "an unknown part of a mixture": (clipdex.InvalidArgument, lambda pets: pets.search(Query().plus(like="id:x"))),
    "an empty text": (clipdex.InvalidArgument, lambda pets: pets.search("")),
    "nothing": (clipdex.InvalidArgument, lambda pets: pets.search()),
    "two things": (clipdex.InvalidArgument, lambda pets: pets.search("a", item="3")),
    "a condition on no column": (clipdex.InvalidArgument, lambda pets: pets.search("a", where="nothing = 1")),
    "a condition that is not translated": (
        clipdex.InvalidArgument, lambda pets: pets.search("a", where="lower(name) = 'a'")
    ),
    "params alone": (clipdex.InvalidArgument, lambda pets: pets.search("a", params={"a": 1})),
    "rows as a filter": (clipdex.InvalidArgument, lambda pets: pets.search("a", where=[1, 2])),
    "groups": (clipdex.InvalidArgument, lambda pets: pets.search("a", group=True)),
    "a top_k of 0": (clipdex.InvalidArgument, lambda pets: pets.search("a", top_k=0)),
    "a min_score of 2": (clipdex.InvalidArgument, lambda pets: pets.search("a", min_score=2)),
    "another width": (clipdex.InvalidArgument, lambda pets: pets.search(vector=unit_vectors(1, 7)[0])),
    "norm 2": (clipdex.InvalidArgument, lambda pets: pets.search(vector=2 * unit_vectors(1, 8)[0])),
    "no picture": (clipdex.ImageError, lambda pets: pets.search(image=b"no picture")),
    "an id that is none": (clipdex.InvalidArgument, lambda pets: pets.get("a\0b")),
}  # fmt: skip


def test_what_it_cannot_do_is_one_sentence_and_changes_nothing(pets: Any, sink: NumpySink) -> None:
    before = dict(sink.points)
    for name, (kind, use) in WRONG.items():
        try:
            use(pets)
        except clipdex.ClipdexError as raised:
            assert type(raised) is kind, f"{name}: {raised!r}"
            assert "\n" not in str(raised) and len(str(raised)) > 20, name
        else:
            pytest.fail(f"{name} was taken")
    assert sink.points == before


@pytest.mark.slow
def test_writing_says_to_push(pets: Any) -> None:
    with pytest.raises(clipdex.InvalidArgument, match=r"is read-only: change the index .* clipdex push  again"):
        pets.remove("3")


@pytest.mark.slow
def test_what_another_process_pushes_is_seen(pets: Any, directory: Path, sink: NumpySink) -> None:
    with IndexWriter(directory) as writer:
        writer.remove(b"id:3\0")
        writer.annotate(b"id:4\0", json.dumps({"n": 44}))
    pushed(directory, sink)
    assert pets.get("3") is None
    assert pets.get("4").metadata == {"n": 44}


@pytest.mark.slow
def test_another_models_collection_is_refused_when_it_is_opened_and_when_it_takes_the_place(
    directory: Path, sink: NumpySink, tmp_path: Path
) -> None:
    with (
        clipdex.Client(FakeTransport(weights="others")) as other,
        pytest.raises(clipdex.FingerprintMismatch, match="the collection in memory"),
    ):
        Collection.open(URL, client=other)
    with Collection.open(URL) as pets:
        sink.drop()
        with pytest.raises(clipdex.SinkError, match="does not exist: push an index into it"):
            pets.get("3")
        with IndexWriter.open_or_create(tmp_path / "o.clipdex", Manifest("e" * 64, "other", 8)) as writer:
            writer.append([Picture(b"/p/a.png", 1, 1, bytes(16), 1, 1, None)], unit_vectors(1, 8))
        pushed(tmp_path / "o.clipdex", sink)
        for ask in (lambda: pets.get("3"), lambda: pets.search(vector=unit_vectors(1, 8)[0])):
            with pytest.raises(clipdex.FingerprintMismatch, match=r"replaced by one of other .* open it again"):
                ask()


@pytest.mark.slow
def test_without_a_model_it_takes_vectors_and_once_closed_nothing(directory: Path) -> None:
    with Collection.open(URL) as pets:
        assert pets.search(vector=pets.vector("3"), top_k=1)[0].id == "3"
        with pytest.raises(clipdex.InvalidArgument, match="has no model"):
            pets.search("a cat")
    for use in (lambda: pets.get("3"), lambda: pets.search(vector=unit_vectors(1, 8)[0]), lambda: len(pets)):
        with pytest.raises(clipdex.Closed, match="the collection in memory is closed"):
            use()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [("path", 3), ("path", None), ("width", "wide"), ("mtime", float("inf")), ("metadata", 7), ("metadata", "[")],
)
def test_a_point_that_clipdex_did_not_write_is_said(
    directory: Path, sink: NumpySink, name: str, value: Any
) -> None:
    one = sink.points[point_id(b"id:3\0")]
    one.payload[name] = value  # type: ignore[index]
    with Collection.open(URL) as pets, pytest.raises(clipdex.SinkError, match=r"did not write|is no JSON object"):
        pets.search(vector=np.asarray(one.vector), top_k=1)


@pytest.mark.slow
@pytest.mark.parametrize(("rating", "read"), [(3.0, 3), (3.5, None), (float("nan"), None), ("x", None), (9, None)])
def test_a_rating_is_read_as_a_number_or_not_at_all(
    directory: Path, sink: NumpySink, rating: object, read: int | None
) -> None:
    """Some databases have floating-point numbers alone."""
    sink.points[point_id(b"/p/0.png")].payload["rating"] = rating  # type: ignore[index]
    with Collection.open(URL) as pets:
        found = pets.get(Path("/p/0.png"))
        assert found is not None and found.exif is not None and found.exif.rating == read


def test_an_address_that_is_none_or_of_nothing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(clipdex.InvalidArgument, match="is no address of a collection; expected qdrant://HOST"):
        Collection.open("qdrant://db1")
    with pytest.raises(clipdex.InvalidArgument, match="no server= to connect to"):
        Collection.open(URL, model="fake")
    with pytest.raises(clipdex.IndexNotFound):
        Collection.open(str(tmp_path / "nowhere"), read_only=True)
