"""A collection and its asyncio twin: one contract for both."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise, png, unit_vectors
from PIL import Image

import clipdex
from clipdex import Collection, Item, Query
from clipdex.client.batching import Batcher
from clipdex.collection import text_vectors
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin


class Blocking:
    """The asyncio twin with the blocking one's methods: each is awaited in a loop of its own thread."""

    def __init__(self, twin: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.twin, self._loop = twin, loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.twin, name)

        def call(*args: Any, **options: Any) -> Any:
            made = found(*args, **options)
            return self._wait(made) if inspect.isawaitable(made) else self._each(made)

        return call if callable(found) else found

    def _wait(self, awaited: Any) -> Any:
        async def wait() -> Any:
            return await awaited

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(60)

    def _each(self, iterator: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._wait(anext(iterator))
            except StopAsyncIteration:
                return

    def __iter__(self) -> Iterator[Any]:
        return self._each(aiter(self.twin))

    def __len__(self) -> int:
        return int(self._wait(self.twin.count()))

    def __contains__(self, item: Any) -> bool:
        return bool(self._wait(self.twin.contains(item)))

    def __enter__(self) -> Any:
        self._wait(self.twin.__aenter__())
        return self

    def __exit__(self, *raised: Any) -> None:
        self._wait(self.twin.__aexit__(*raised))


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever, daemon=True)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


@pytest.fixture(params=["blocking", "asyncio"])
def opened(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Open a collection of either kind."""
    if request.param == "blocking":
        return Collection.open
    loop = request.getfixturevalue("loop")
    import clipdex.aio

    def make(*args: Any, **settings: Any) -> Any:
        return Blocking(clipdex.aio.Collection.open(*args, **settings), loop)

    return make


@pytest.fixture
def pets(opened: Callable[..., Any], fake: clipdex.Client, tmp_path: Path) -> Iterator[Any]:
    with opened(tmp_path / "x.clipdex", client=fake) as collection:
        yield collection


def found(hits: list[clipdex.Hit]) -> list[str | None]:
    return [hit.id for hit in hits]


def test_what_was_added_is_found_when_add_returns(pets: Any) -> None:
    assert pets.add(Item("a", png(0), metadata={"name": "Ada"})) == 1
    assert pets.add([Item("b", noise(1)), Item("c", png(2))]) == 2
    (hit,) = pets.search(image=noise(1), top_k=1)
    assert (hit.id, hit.path) == ("b", "id:b")
    assert hit.score == pytest.approx(1, abs=1e-3)
    assert len(pets) == 3
    assert "a" in pets and "d" not in pets and 17 not in pets


def test_an_item_is_a_path_bytes_an_open_file_an_image_an_array_or_a_vector(
    pets: Any, fake: clipdex.Client, tmp_path: Path
) -> None:
    (tmp_path / "f.png").write_bytes(png(1))
    vector = fake.embed_images([noise(1)])[0]
    items = [
        Item("path", tmp_path / "f.png"),
        Item("text", str(tmp_path / "f.png")),
        Item("bytes", png(1)),
        Item("file", io.BytesIO(png(1))),
        Item("image", noise(1)),
        Item("array", np.asarray(noise(1))),
        Item("vector", vector=vector),
    ]
    assert pets.add(items) == 7
    hits = pets.search(vector=vector, top_k=10)
    assert sorted(map(str, found(hits))) == sorted(item.id for item in items)
    assert all(hit.score > 0.999 for hit in hits)
    stored = {each.id: each for each in pets}
    assert (stored["bytes"].width, stored["bytes"].height, stored["bytes"].size) == (40, 30, len(png(1)))
    assert (stored["vector"].width, stored["vector"].height) == (0, 0)


def test_add_replaces_an_item_of_the_same_id(pets: Any) -> None:
    pets.add([Item("a", png(0), metadata={"n": 1}), Item("b", png(1))])
    pets.add(Item("a", png(2), metadata={"n": 2}))
    assert len(pets) == 2
    assert pets.get("a").metadata == {"n": 2}
    assert found(pets.search(image=noise(2), top_k=1)) == ["a"]
    pets.add([Item("a", png(3)), Item("a", png(4))])
    assert found(pets.search(image=noise(4), top_k=1, min_score=0.999)) == ["a"]
    assert len(pets) == 2


def test_the_same_picture_again_takes_no_row_and_brings_its_metadata(pets: Any) -> None:
    pets.add(Item("a", png(0), metadata={"n": 1}))
    row = pets.get("a").row
    pets.add(Item("a", png(0), metadata={"n": 2}))
    assert pets.get("a").row == row
    assert pets.get("a").metadata == {"n": 2}
    pets.add(Item("a", png(0)))
    assert pets.get("a").metadata == {}


def test_pictures_are_listed_page_by_page(pets: Any) -> None:
    pets.add([Item(str(i), png(i)) for i in range(5)])
    pets.remove(["1", "4"])
    pages = [pets.after(row, 2) for row in (-1, 2, 3)]
    assert [[each.id for each in page] for page in pages] == [["0", "2"], ["3"], []]
    assert len(pages[0][0].content_hash) == 16 != pages[0][1].content_hash
    assert pets.info().rows == 3


def test_a_hit_has_its_record(pets: Any) -> None:
    pets.add([Item("a", png(0)), Item("b", png(0))])
    (hit,) = pets.search(image=png(0), group=True)
    for each in (hit, *hit.copies):
        stored = pets.get(each.id)
        assert each.picture.content_hash == stored.content_hash
        assert (each.picture.width, each.picture.size) == (40, len(png(0)))


def test_removed_items_are_gone_and_unknown_ids_are_no_error(pets: Any) -> None:
    pets.add([Item(str(i), png(i)) for i in range(4)])
    assert pets.remove(["1", "2", "7", "1"]) == 2
    assert pets.remove("0") == 1
    assert list(pets.ids()) == ["3"]
    assert [each.id for each in pets] == ["3"]
    assert pets.get("1") is None


def test_metadata_is_replaced_and_filters_see_it(pets: Any) -> None:
    pets.add([Item("a", png(0), metadata={"tags": ["red"]}), Item("b", png(1))])
    assert found(pets.search(vector=unit_vectors(1, 8)[0], where="has(meta, 'tags', 'red')")) == ["a"]
    pets.update_metadata("a", {"tags": ["blue"]})
    pets.update_metadata("b", {"tags": ["red"]})
    where = {"where": "has(meta, 'tags', :tag)", "params": {"tag": "red"}}
    assert found(pets.search(vector=unit_vectors(1, 8)[0], **where)) == ["b"]
    pets.update_metadata("b", None)
    assert pets.get("b").metadata == {}
    with pytest.raises(clipdex.ItemNotFound, match=r"has no item 'z'$"):
        pets.update_metadata("z", {})


def test_a_search_is_for_a_text_a_picture_an_item_a_mixture_or_a_vector(pets: Any, fake: clipdex.Client) -> None:
    pets.add([Item(str(i), png(i)) for i in range(6)])
    index = clipdex.Index.open(pets.collection.directory if hasattr(pets, "twin") else pets.directory)
    assert pets.search("a cat") == index.search(fake.embed_texts(["a cat"]))[0]
    assert pets.search(image=png(2)) == index.search(fake.embed_images([png(2)]))[0]
    near = pets.similar("3", top_k=3)
    assert near == pets.search(item="3", top_k=3) == index.search(index.vector("id:3"), 3, exclude=[3])[0]
    assert "3" not in found(near)
    query = Query().plus(text="beach").minus(image=png(1)).plus(like="id:4", weight=0.5)
    assert pets.search(query) == index.search(query.embed(fake, index), exclude=[4])[0]
    assert found(pets.search("a", top_k=2, offset=1)) == found(pets.search("a", top_k=3))[1:]
    assert pets.search(vector=pets.vector("5"), min_score=0.999)[0].id == "5"
    assert pets.similar(0, top_k=1) == pets.similar("0", top_k=1)
    index.close()


def test_near_duplicates_are_one_hit_if_asked(pets: Any) -> None:
    pets.add([Item("a", png(0)), Item("b", png(0)), Item("c", png(1))])
    hits = pets.search(image=png(0), group=True)
    assert found(hits) == ["a", "c"]
    assert found(list(hits[0].copies)) == ["b"]
    assert pets.search(image=png(0), group=clipdex.Grouping()) == hits


def test_one_item_that_cannot_be_decoded_fails_alone(pets: Any) -> None:
    with pytest.raises(clipdex.ImageError, match=r"^the item 'bad': ") as one:
        pets.add(Item("bad", b"no picture"))
    assert one.value.reason
    with pytest.raises(clipdex.AddFailed, match=r"^the item 'bad' could not be added \(2 were\): ") as several:
        pets.add(iter([Item("a", png(0)), Item("bad", b"no picture"), Item("b", png(1))]))
    assert several.value.added == 2
    assert isinstance(several.value.failures["bad"], clipdex.ImageError)
    assert sorted(pets.ids()) == ["a", "b"]


def test_a_refused_picture_fails_alone(opened: Callable[..., Any], tmp_path: Path) -> None:
    def fault(model: str, inputs: Any) -> Exception | None:
        bad = model == "fake_image" and any((row == 7).all() for row in inputs["pixels"])
        return clipdex.RequestRefused("not this one") if bad else None

    with (
        clipdex.Client(FakeTransport(fault=fault)) as client,
        opened(tmp_path / "x", client=client) as pets,
        pytest.raises(clipdex.AddFailed, match="not this one") as failed,
    ):
        pets.add([Item("a", png(0)), Item("bad", Image.new("RGB", (32, 32), (7, 7, 7))), Item("b", png(1))])
    assert list(failed.value.failures) == ["bad"]
    assert failed.value.added == 2


def test_what_was_not_flushed_is_there_after_a_commit_or_the_end(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    with clipdex.Client(FakeTransport()) as client:
        with opened(tmp_path / "x", client=client) as pets:
            pets.add([Item(str(i), png(i)) for i in range(3)], flush=False)
            assert len(pets) == 0
            pets.commit()
            assert len(pets) == 3
            pets.remove("1", flush=False)
            pets.update_metadata("2", {"n": 1}, flush=False)
        with opened(tmp_path / "x", client=client, read_only=True) as pets:
            assert list(pets.ids()) == ["0", "2"]
            assert pets.get("2").metadata == {"n": 1}


def test_a_collection_without_a_model_takes_and_finds_vectors(opened: Callable[..., Any], tmp_path: Path) -> None:
    with clipdex.Client(FakeTransport()) as client, opened(tmp_path / "x", client=client) as pets:
        pets.add(Item("a", png(0)))
    vectors = unit_vectors(2, 8)
    with opened(tmp_path / "x") as pets:
        pets.add(Item("b", vector=vectors[0]))
        assert found(pets.search(vector=vectors[0], top_k=1)) == ["b"]
        assert found(pets.similar("b", top_k=1)) == ["a"]
        for ask in (lambda: pets.search("a cat"), lambda: pets.add(Item("c", png(1)))):
            with pytest.raises(clipdex.InvalidArgument, match="has no model"):
                ask()
    with pytest.raises(clipdex.IndexNotFound, match="no such index; give server= or client= to create it"):
        opened(tmp_path / "none").__enter__()


def test_a_closed_collection_says_so(opened: Callable[..., Any], fake: clipdex.Client, tmp_path: Path) -> None:
    pets = opened(tmp_path / "x", client=fake)
    with pets:
        pets.add(Item("a", png(0)))
    pets.close()
    for use in (
        lambda: pets.add(Item("b", png(1))),
        lambda: pets.search("a"),
        lambda: pets.get("a"),
        lambda: pets.remove("a"),
        lambda: pets.commit(),
        lambda: len(pets),
        lambda: list(pets),
        lambda: pets.__enter__(),
    ):
        with pytest.raises(clipdex.Closed, match=r"^this [Cc]ollection .*is closed"):
            use()
    assert fake.embed_texts(["a"]).shape == (1, 8), "the client is not the collection's"


def test_a_read_only_collection_refuses_to_write_and_sees_what_others_commit(
    opened: Callable[..., Any], fake: clipdex.Client, tmp_path: Path
) -> None:
    with Collection.open(tmp_path / "x", client=fake) as writer:
        writer.add(Item("a", png(0)))
        with opened(tmp_path / "x", client=fake, read_only=True) as reader:
            assert list(reader.ids()) == ["a"]
            writer.add(Item("b", png(1)))
            assert list(reader.ids()) == ["a", "b"]
            assert found(reader.search(image=png(1), top_k=1)) == ["b"]
            for use in (lambda: reader.add(Item("c", png(2))), lambda: reader.remove("a"), reader.commit):
                with pytest.raises(clipdex.InvalidArgument, match="was opened with read_only=True"):
                    use()


def test_watch_sees_commits_of_this_and_of_other_processes(
    opened: Callable[..., Any], fake: clipdex.Client, tmp_path: Path
) -> None:
    with Collection.open(tmp_path / "x", client=fake) as writer:
        writer.add(Item("a", png(0)))
        with opened(tmp_path / "x", client=fake, read_only=True) as reader:
            seen = reader.watch(poll_s=0.01, timeout_s=5)
            threading.Timer(0.1, writer.add, [Item("b", png(1))]).start()
            assert next(seen) == clipdex.Commit(2, 2)
            threading.Timer(0.1, writer.update_metadata, ["b", {"n": 1}]).start()
            assert next(seen) == clipdex.Commit(2, 2)
            writer.remove("a")
            assert next(seen) == clipdex.Commit(1, 2)
            assert list(reader.watch(poll_s=0.01, timeout_s=0.05)) == []


WRONG = {
    "no id": lambda pets: Item(7, png(0)),  # type: ignore[arg-type]
    "an empty id": lambda pets: Item("", png(0)),
    "a zero byte in an id": lambda pets: Item("a\0b", png(0)),
    "half a surrogate in an id": lambda pets: Item("\ud83d", png(0)),
    "an id of a kilobyte": lambda pets: Item("é" * 513, png(0)),
    "neither image nor vector": lambda pets: Item("a"),
    "both": lambda pets: Item("a", png(0), [1.0]),
    "metadata of a list": lambda pets: Item("a", png(0), metadata=[1]),  # type: ignore[arg-type]
    "metadata of bytes": lambda pets: Item("a", png(0), metadata={"x": b"1"}),
    "metadata that is too long": lambda pets: Item("a", png(0), metadata={"x": "y" * 70_000}),
    "a picture of another kind": lambda pets: pets.add(Item("a", 17)),  # type: ignore[arg-type]
    "a vector of another width": lambda pets: pets.add(Item("a", vector=unit_vectors(1, 7)[0])),
    "a vector of whole numbers": lambda pets: pets.add(Item("a", vector=np.eye(8, dtype=int)[0])),
    "a ragged vector": lambda pets: pets.add(Item("a", vector=[[1.0], [1.0, 2.0]])),
    "a vector of norm 2": lambda pets: pets.add(Item("a", vector=2 * unit_vectors(1, 8)[0])),
    "a vector of NaN": lambda pets: pets.add(Item("a", vector=np.full(8, np.nan, np.float32))),
    "a path to add": lambda pets: pets.add("a.png"),
    "a number to add": lambda pets: pets.add(7),
    "a list of paths to add": lambda pets: pets.add(["a.png"]),
    "a number to remove": lambda pets: pets.remove(7),
    "numbers to remove": lambda pets: pets.remove([7]),
    "nothing to search for": lambda pets: pets.search(),
    "two things to search for": lambda pets: pets.search("a", image=png(0)),
    "a list of texts": lambda pets: pets.search(["a"]),
    "group": lambda pets: pets.search("a", group="yes"),
    "two vectors": lambda pets: pets.search(vector=unit_vectors(2, 8)),
    "a condition": lambda pets: pets.search("a", where="no such column"),
    "get of a list": lambda pets: pets.get(["a"]),
    "after a text": lambda pets: pets.after("a", 1),
    "a limit of 0": lambda pets: pets.after(-1, 0),
    "a text to cut": lambda pets: pets.lost("a"),
    "get of bytes": lambda pets: pets.get(b"a"),
    "poll_s": lambda pets: next(pets.watch(poll_s=0)),
    "endless poll_s": lambda pets: next(pets.watch(poll_s=float("inf"), timeout_s=0)),
    "poll_s of no number": lambda pets: next(pets.watch(poll_s=float("nan"), timeout_s=0)),
}


def test_a_wrong_kind_is_one_sentence(pets: Any) -> None:
    pets.add(Item("z", png(9)))
    for name, use in WRONG.items():
        try:
            use(pets)
        except clipdex.InvalidArgument as refused:
            assert "\n" not in str(refused) and len(str(refused)) > 20, name
        else:
            pytest.fail(f"{name} was taken")
        assert list(pets.ids()) == ["z"], name


@pytest.mark.parametrize(
    "settings",
    [
        {"lock": "no"},
        {"client": 7},
        {"server": "localhost:1", "client": ...},
        {"model": "demo"},
        {"timeout_s": 3},
        {"client": ..., "model": "x"},
        {"client": ..., "icc": "no"},
        {"index": 7},
        {"index": ""},
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_one_sentence(
    fake: clipdex.Client, tmp_path: Path, settings: dict[str, Any]
) -> None:
    named = {name: fake if value is ... else value for name, value in settings.items()}
    given: dict[str, Any] = {"index": tmp_path / "x"} | named
    with pytest.raises(clipdex.InvalidArgument):
        Collection.open(**given)
    assert not (tmp_path / "x").exists()


def test_vectors_and_models_of_another_space_are_refused_on_every_way(pets: Any, tmp_path: Path) -> None:
    pets.add(Item("a", png(0)))
    with clipdex.Client(FakeTransport(weights="others")) as other:
        vector = other.embed_images([png(0)])[0]
        with pytest.raises(clipdex.FingerprintMismatch, match="the item 'b' is from another model"):
            pets.add([Item("b", vector=vector)])
        with pytest.raises(clipdex.FingerprintMismatch):
            pets.search(vector=vector)
        for settings in ({}, {"read_only": True}, {"lock": "per_commit"}):
            pets.close()
            with pytest.raises(clipdex.FingerprintMismatch):
                Collection.open(tmp_path / "x.clipdex", client=other, **settings)


@pytest.mark.slow
def test_a_query_picture_of_a_match_costs_only_itself(opened: Callable[..., Any], tmp_path: Path) -> None:
    """Its features are found in worker processes, one of which dies."""
    pytest.importorskip("cv2", reason="matching needs the extra features")
    from scenes import give_features, scene_png

    path = tmp_path / "scenes.clipdex"
    with clipdex.Client(FakeTransport()) as client, Collection.open(path, client=client) as made:
        made.add(Item("1", scene_png(1)))
    give_features(path, scene_png(1))
    crop = tmp_path / "crop.png"
    crop.write_bytes(scene_png(1, (80, 60, 240, 200)))
    with opened(path, read_only=True, decode_workers=1) as pets:
        blocking = pets.collection if isinstance(pets, Blocking) else pets
        for query in (crop, crop.read_bytes(), io.BytesIO(crop.read_bytes()), Image.open(crop)):
            assert [each.id for each in pets.match(query)] == ["1"]
        finder = blocking._core.decoding._finder
        (worker,) = finder.processes()
        with pytest.raises(clipdex.ImageError, match="the bytes given: "):
            pets.match(crop.read_bytes()[:2000])
        with pytest.raises(clipdex.ImageError, match=r"nothing\.png: "):
            pets.match(tmp_path / "nothing.png")
        assert finder.processes() == [worker]
        os.kill(worker, signal.SIGKILL)
        with contextlib.suppress(clipdex.ImageError):  # if it dies only now
            pets.match(crop)
        assert [each.id for each in pets.match(crop)] == ["1"]
        assert finder.processes() != [worker]
    with pytest.raises(clipdex.Closed):
        blocking.match(crop)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are embedded for searches."""
    found: list[str] = []
    bare = Batcher.text
    monkeypatch.setattr(Batcher, "text", lambda batcher, text: (found.append(text), bare(batcher, text))[1])
    return found


def test_the_next_page_of_a_text_needs_no_inference(pets: Any, embedded: list[str]) -> None:
    pets.add([Item(str(i), vector=each) for i, each in enumerate(unit_vectors(2, 8))])
    pages = [*pets.search("a dog", top_k=1), *pets.search("a dog", top_k=1, offset=1)]
    assert pages == pets.search("a dog", top_k=2) and embedded == ["a dog"] and len(pages) == 2
    assert pets.search("a cat") and embedded == ["a dog", "a cat"]


def test_only_the_vectors_of_the_last_texts_are_kept(
    pets: Any, embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_vectors, "_KEPT", 2)
    for text in ("a", "b", "a", "c", "a", "b"):  # b is forgotten for c
        pets.search(text)
    assert embedded == ["a", "b", "c", "b"]


def test_a_text_that_is_cut_warns_each_time(pets: Any) -> None:
    for _ in range(2):
        with pytest.warns(clipdex.TextCut):
            pets.search("dog " * 100)


def test_the_number_that_a_search_shows_is_of_the_commit_that_it_saw(fake: clipdex.Client, tmp_path: Path) -> None:
    with (
        Collection.open(tmp_path / "x", client=fake) as writer,
        Collection.open(tmp_path / "x", client=fake, read_only=True) as reader,
    ):
        writer.add(Item("a", noise(1)))
        assert (len(reader), reader.seen()) == (1, 1)
        writer.add(Item("b", noise(2)))
        assert reader.seen() == 1
        assert len(reader.search("a dog")) == 2
        assert reader.seen() == 2
