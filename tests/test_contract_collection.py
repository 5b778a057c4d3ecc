"""One contract for a collection, its asyncio twin, and the REST API over it."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pytest
from conftest import noise, png, unit_vectors
from PIL import Image
from scenes import give_features, scene, scene_png
from test_collection import Blocking, loop

import clipdex
from clipdex import Collection, Item, Query
from clipdex.index.side.feature_file import remove_features
from clipdex.looks.local_features import Recipe
from clipdex.wire import FakeTransport

pytestmark = pytest.mark.thin

__all__ = ["loop"]  # a fixture


class Found(NamedTuple):
    """A hit, however it was asked for."""

    row: int
    id: str | None
    metadata: dict[str, Any]
    size: tuple[int, int]
    copies: tuple[str | None, ...]


class Matched(NamedTuple):
    """A match, however it was asked for. region: (4, 2), fractions: (4, 2), transform: (3, 3)."""

    row: int
    id: str | None
    metadata: dict[str, Any]
    inliers: int
    mirrored: bool
    region: Any
    fractions: Any
    transform: Any


class Ours:
    """A collection, blocking or a twin in the blocking one's dress."""

    refused: type[Exception] = clipdex.InvalidArgument

    def __init__(self, collection: Any) -> None:
        self.collection = collection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collection, name)

    def __len__(self) -> int:
        return len(self.collection)

    def items(self) -> list[clipdex.StoredItem]:
        return list(self.collection)

    def search(self, text: Any = None, **options: Any) -> tuple[list[Found], list[float]]:
        return self._found(self.collection.search(text, **options))

    def similar(self, item: Any, **options: Any) -> tuple[list[Found], list[float]]:
        return self._found(self.collection.similar(item, **options))

    def match(self, image: Any, **options: Any) -> list[Matched]:
        found = []
        for each in self.collection.match(image, **options):
            assert each.picture.width > 0
            v = each.verified
            how = (each.inliers, v.mirrored, v.region, v.fractions, v.transform)
            found.append(Matched(each.row, each.id, each.metadata or {}, *how))
        return found

    def _found(self, hits: list[clipdex.Hit]) -> tuple[list[Found], list[float]]:
        made = []
        for hit in hits:
            assert hit.picture is not None
            size = (hit.picture.width, hit.picture.height)
            copies = tuple(copy.id for copy in hit.copies)
            made.append(Found(hit.row, hit.id, hit.metadata or {}, size, copies))
        return made, [hit.score for hit in hits]


class OverHttp:
    """The REST API in the collection's dress."""

    def __init__(self, http: Any, *, read_only: bool) -> None:
        from clipdex.web.problems import Forbidden

        self.http = http
        self.refused = Forbidden if read_only else clipdex.InvalidArgument
        self.errors = {"Forbidden": Forbidden}

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        answer = self.http.request(method, f"/v1/{path}", **request)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            said = answer.json()
            name = said["type"].removeprefix("urn:clipdex:")
            kind: Any = self.errors.get(name) or getattr(clipdex, name)
            if kind is clipdex.AddFailed:
                raise clipdex.AddFailed(said["detail"], said["failures"], said["added"])
            raise kind(said["detail"], reason=said["reason"]) if "reason" in said else kind(said["detail"])
        return answer.json() if answer.content else None

    def add(self, items: Item | list[Item]) -> int:
        if isinstance(items, Item):
            path = f"items/{quote(items.id, safe='')}"
            return int(self._ask("PUT", path, json=_item(items))["added"])
        listed = [{"id": each.id} | _item(each) for each in items]
        return int(self._ask("POST", "items", json=listed)["added"])

    def remove(self, ids: str | list[str]) -> int:
        return int(
            self._ask("POST", "items/remove", json={"ids": [ids] if isinstance(ids, str) else ids})["removed"]
        )

    def update_metadata(self, item_id: str, metadata: Mapping[str, Any]) -> None:
        self._ask("PATCH", f"items/{quote(item_id, safe='')}", json={"metadata": metadata})

    def get(self, key: str | int) -> clipdex.StoredItem | None:
        path = f"pictures/{key}" if isinstance(key, int) else f"items/{quote(key, safe='')}"
        try:
            return _stored(self._ask("GET", path))
        except clipdex.ItemNotFound:
            return None

    def __len__(self) -> int:
        return int(self._ask("GET", "info")["pictures"])

    def items(self) -> list[clipdex.StoredItem]:
        found, after = [], -1
        while after is not None:
            page = self._ask("GET", "items", params={"after": after, "limit": 3})
            found += [_stored(each) for each in page["items"]]
            after = page["next"]
        return found

    def ids(self) -> list[str]:
        return [each.id for each in self.items() if each.id is not None]

    def lost(self, texts: list[str]) -> list[str]:
        return list(self._ask("POST", "search", json={"parts": [{"text": text} for text in texts]})["cut"])

    def search(self, text: Any = None, **options: Any) -> tuple[list[Found], list[float]]:
        asked: dict[str, Any] = {"top_k": options.pop("top_k", 5)}
        if isinstance(text, Query):
            asked["parts"] = [_part(part) for part in text.parts]
        elif text is not None:
            asked["text"] = text
        item = options.pop("item", None)
        if item is not None:
            asked["row" if isinstance(item, int) else "id"] = item
        if "image" in options:
            asked["image"] = _base64(options.pop("image"))
        if "vector" in options:
            asked["vector"] = np.asarray(options.pop("vector"), float).tolist()
        return self._found(self._ask("POST", "search", json=asked | options))

    def similar(self, item: Any, **options: Any) -> tuple[list[Found], list[float]]:
        asked = {"row" if isinstance(item, int) else "id": item, "top_k": 5} | options
        return self._found(self._ask("GET", "similar", params=asked))

    def match(self, image: Any, **options: Any) -> list[Matched]:
        before = len(self)
        said = self._ask("POST", "match", json={"image": _base64(image)} | options)
        assert before <= said["pictures"] <= len(self)  # equal unless another thread adds meanwhile
        return [
            Matched(
                each["row"],
                each["id"],
                each["metadata"],
                each["inliers"],
                each["mirrored"],
                np.array(each["region"]),
                np.array(each["region_fractions"]),
                np.array(each["transform"]),
            )
            for each in said["matches"]
        ]

    def _found(self, said: dict[str, Any]) -> tuple[list[Found], list[float]]:
        hits = said["hits"]
        made = [
            Found(
                hit["row"],
                hit["id"],
                hit["metadata"],
                (hit["width"], hit["height"]),
                tuple(copy["id"] for copy in hit["copies"]),
            )
            for hit in hits
        ]
        return made, [hit["score"] for hit in hits]


def _base64(image: Any) -> str:
    if isinstance(image, Image.Image):
        data = io.BytesIO()
        image.save(data, "PNG")
        image = data.getvalue()
    return "data:image/png;base64," + base64.b64encode(image).decode()


def _item(item: Item) -> dict[str, Any]:
    said: dict[str, Any] = {"metadata": item.metadata}
    if item.vector is not None:
        return said | {"vector": np.asarray(item.vector, float).tolist()}
    return said | {"image": _base64(item.image)}


def _part(part: Any) -> dict[str, Any]:
    value: Any = _base64(part.value) if part.kind == "image" else part.value
    if part.kind != "like":
        return {part.kind: value, "weight": part.weight}
    key = {"row": value} if isinstance(value, int) else {"id": value.removeprefix("id:")}
    return key | {"weight": part.weight}


def _stored(said: dict[str, Any]) -> clipdex.StoredItem:
    names = ("id", "row", "width", "height", "size", "metadata")
    return clipdex.StoredItem(path=said["path"], mtime_ns=0, **{name: said[name] for name in names})


Opened = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(params=["blocking", pytest.param("asyncio", marks=pytest.mark.slow), "rest"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Open the collection tmp_path/x.clipdex in each way; `model=False` for one without an inference server."""
    directory = tmp_path / "x.clipdex"
    with clipdex.Client(FakeTransport()) as client:
        Collection.open(directory, client=client).close()

    @contextmanager
    def over_http(read_only: bool, model: bool, transport: FakeTransport) -> Iterator[Any]:
        from web_server import answering, settings_of

        settings = settings_of(directory, fake=model, allow_write=not read_only)
        with answering(settings, transport) as http:
            yield OverHttp(http, read_only=read_only)

    @contextmanager
    def ours(read_only: bool, model: bool, transport: FakeTransport) -> Iterator[Any]:
        settings: dict[str, Any] = {"read_only": read_only} | ({} if read_only else {"lock": "per_commit"})
        with clipdex.Client(transport) as client:
            settings |= {"client": client} if model else {}
            if request.param == "blocking":
                with Collection.open(directory, **settings) as collection:
                    yield Ours(collection)
            else:
                from clipdex import aio

                twin = aio.Collection.open(directory, **settings)
                with Blocking(twin, request.getfixturevalue("loop")) as collection:
                    yield Ours(collection)

    if request.param == "rest":
        pytest.importorskip("fastapi", reason="the REST API needs the extra web")

    def make(
        read_only: bool = False, model: bool = True, transport: FakeTransport | None = None
    ) -> AbstractContextManager[Any]:
        kind = over_http if request.param == "rest" else ours
        return kind(read_only, model, transport or FakeTransport())

    return make


@pytest.fixture
def pets(opened: Opened) -> Iterator[Any]:
    with opened() as collection:
        yield collection


def ids(found: tuple[list[Found], list[float]]) -> list[str | None]:
    return [hit.id for hit in found[0]]


@pytest.mark.slow
def test_items_are_added_replaced_read_and_listed(pets: Any) -> None:
    assert pets.add(Item("user/1?#", png(0), metadata={"name": "Ada"})) == 1
    assert pets.add([Item("b", png(1)), Item("ö ü", png(2), metadata={"n": [1, None, "x"]})]) == 2
    assert len(pets) == 3
    one = pets.get("user/1?#")
    assert (one.id, one.path, one.row) == ("user/1?#", "id:user/1?#", 0)
    assert (one.width, one.height, one.size, one.metadata) == (40, 30, len(png(0)), {"name": "Ada"})
    assert pets.get(2).id == "ö ü"
    assert pets.get("c") is pets.get(17) is None
    pets.add(Item("b", png(3), metadata={"new": True}))
    assert len(pets) == 3
    assert pets.get("b").metadata == {"new": True}
    assert ids(pets.search(image=png(3), top_k=1)) == ["b"]
    pets.add([Item(f"more {i}", png(i)) for i in range(4, 9)])
    assert [each.id for each in pets.items()] == ["user/1?#", "ö ü", "b", *(f"more {i}" for i in range(4, 9))]


@pytest.mark.slow
def test_metadata_is_replaced_and_filters_use_it(pets: Any) -> None:
    pets.add([Item("a", png(0), metadata={"tags": ["red"], "n": 1}), Item("b", png(1))])
    where = {"where": "has(meta, 'tags', :tag) AND width > :w", "params": {"tag": "red", "w": 39.5}}
    assert ids(pets.search("x", **where)) == ["a"]
    pets.update_metadata("b", {"tags": ["red"]})
    assert sorted(map(str, ids(pets.search("x", **where)))) == ["a", "b"]
    pets.update_metadata("a", {})
    assert ids(pets.search("x", **where)) == ["b"]
    assert pets.get("a").metadata == {}
    assert ids(pets.search("x", where="id = 'a'")) == ["a"]


@pytest.mark.slow
def test_removed_items_are_gone_and_unknown_ids_are_no_error(pets: Any) -> None:
    pets.add([Item(str(i), png(i)) for i in range(4)])
    assert pets.remove(["1", "2", "7", "1"]) == 2
    assert pets.remove("0") == 1
    assert list(pets.ids()) == ["3"]
    assert pets.get("1") is None
    assert ids(pets.search("x")) == ["3"]


@pytest.mark.slow
def test_every_kind_of_search_finds_what_the_index_finds(pets: Any, tmp_path: Path) -> None:
    pets.add([Item(str(i), png(i), metadata={"n": i}) for i in range(6)])
    vector = unit_vectors(1, 8)[0]
    mixture = Query().plus(text="beach").minus(image=png(1)).plus(like="id:4", weight=0.5).minus(like=2)
    with clipdex.Client(FakeTransport()) as client, clipdex.Index.open(tmp_path / "x.clipdex") as index:
        of_item = index.vector("id:3")
        expected = [
            (pets.search("a cat"), index.search(client.embed_texts(["a cat"]))),
            (pets.search(image=png(2)), index.search(client.embed_images([png(2)]))),
            (pets.search(vector=vector), index.search(vector)),
            (pets.search(item="3"), index.search(of_item, exclude=[3])),
            (pets.search(item=3), index.search(of_item, exclude=[3])),
            (pets.similar("3"), index.search(of_item, exclude=[3])),
            (pets.similar(3, top_k=2), index.search(of_item, 2, exclude=[3])),
            (pets.search(mixture), index.search(mixture.embed(client, index), exclude=[4, 2])),
            (pets.search("a", top_k=2, offset=1), index.search(client.embed_texts(["a"]), 2, offset=1)),
            (pets.search("a", top_k=6, offset=4), index.search(client.embed_texts(["a"]), 6, offset=4)),
            (pets.search("a", offset=6), index.search(client.embed_texts(["a"]), offset=6)),
            (pets.search("a", min_score=0.1), index.search(client.embed_texts(["a"]), min_score=0.1)),
            (pets.search("a", where="row < 2"), index.search(client.embed_texts(["a"]), where="row < 2")),
        ]
    for number, ((found, scores), (hits,)) in enumerate(expected):
        assert [(hit.row, hit.id, hit.metadata) for hit in found] == [
            (hit.row, hit.id, hit.metadata) for hit in hits
        ], number
        assert scores == pytest.approx([hit.score for hit in hits], abs=1e-6), number


@pytest.mark.slow
def test_near_duplicates_are_one_hit_if_asked(pets: Any) -> None:
    pets.add([Item("a", png(0)), Item("b", png(0)), Item("c", png(1))])
    found, _ = pets.search(image=png(0), group=True)
    assert [(hit.id, hit.copies) for hit in found] == [("a", ("b",)), ("c", ())]
    assert ids(pets.search(image=png(0), group=True, top_k=1, offset=1)) == ["c"]
    assert ids(pets.similar("c", group=True)) == ["a"]


@pytest.mark.slow
def test_pages_by_offset_are_the_whole_ranking(pets: Any) -> None:
    pets.add([Item(str(i), png(i)) for i in range(7)])
    pages = [hit for offset in (0, 3, 6) for hit in pets.search("x", top_k=3, offset=offset)[0]]
    assert pages == pets.search("x", top_k=7)[0]


@pytest.mark.slow
def test_a_text_beyond_the_models_context_is_reported(pets: Any) -> None:
    pets.add(Item("a", png(0)))
    (lost,) = pets.lost(["x" * 100])
    assert 0 < len(lost) < 100 and set(lost) == {"x"}


CROP = (80, 60, 240, 200)


@pytest.fixture
def scenes(opened: Opened, tmp_path: Path) -> Iterator[Any]:
    """A collection of three scenes with local features: 0, 1, 2."""
    pytest.importorskip("cv2", reason="matching needs the extra features")
    with opened() as collection:
        collection.add([Item(str(n), scene_png(n), metadata={"n": n}) for n in range(3)])
        give_features(tmp_path / "x.clipdex", *map(scene_png, range(3)))
        yield collection


def test_a_crop_is_matched_with_its_region_and_what_is_not_there_is_not(scenes: Any) -> None:
    (found,) = scenes.match(scene_png(2, CROP))
    assert (found.row, found.id, found.metadata, found.mirrored) == (2, "2", {"n": 2}, False)
    assert found.inliers >= 20
    corners = np.array([(80, 60), (240, 60), (240, 200), (80, 200)])
    assert np.abs(found.region - (corners - 0.5)).max() < 1.5
    assert np.abs(found.fractions - corners / (320, 240)).max() < 0.01
    assert np.abs(found.transform - [[1, 0, 80], [0, 1, 60], [0, 0, 1]]).max() < 1.5
    assert scenes.match(scene_png(77)) == []
    scenes.add(Item("new", scene_png(3)))  # to an index that has features
    assert [each.id for each in scenes.match(scene_png(3, CROP))] == ["new"]
    with pytest.raises(clipdex.ImageError):
        scenes.match(NO_PICTURE)


@pytest.mark.slow
def test_a_match_takes_conditions_a_text_and_numbers(scenes: Any) -> None:
    def matched(**options: Any) -> list[str | None]:
        return [each.id for each in scenes.match(scene_png(1, CROP), **options)]

    (inliers,) = [each.inliers for each in scenes.match(scene_png(1, CROP))]
    assert matched(where="meta ->> 'n' = :n", params={"n": 1}) == ["1"]
    assert matched(where="meta ->> 'n' <> 1") == []
    assert matched(min_inliers=inliers) == ["1"]
    assert matched(min_inliers=inliers + 1) == []
    assert matched(within="a text", top_k=1) == ["1"]  # it has three pictures, and a text a thousand
    assert matched(within="a text", where="row <> 1") == []
    for wrong in ({"where": "nothing = 1"}, {"params": {"a": 1}}, {"within": "a", "params": {"a": 1}}):
        with pytest.raises(clipdex.InvalidArgument):
            matched(**wrong)
    for wrong in ({"where": "nothing = 1", "within": "a"}, {"within": " "}):
        with pytest.raises(clipdex.InvalidArgument):
            matched(**wrong)


@pytest.mark.slow
def test_pictures_that_share_a_part_with_the_query_are_matched_if_asked(scenes: Any) -> None:
    query = scene(50)
    query.paste(scene(1).crop((60, 60, 200, 180)), (70, 70))
    assert scenes.match(query) == []
    assert [each.id for each in scenes.match(query, parts=True)] == ["1"]
    assert [each.id for each in scenes.match(query, parts=True, within="a text")] == ["1"]
    assert scenes.match(query, parts=True, where="meta ->> 'n' <> 1") == []


@pytest.mark.slow
def test_a_match_sees_pictures_and_features_that_came_and_went(scenes: Any, tmp_path: Path) -> None:
    directory = tmp_path / "x.clipdex"

    def matched(n: int) -> list[tuple[int, str | None]]:
        return [(each.row, each.id) for each in scenes.match(scene_png(n, CROP))]

    assert matched(1) == [(1, "1")]
    with (
        clipdex.Client(FakeTransport()) as client,
        Collection.open(directory, client=client, local_features=False) as other,
    ):
        other.add(Item("3", scene_png(3)))
    assert matched(3) == []
    give_features(directory, scene_png(3))  # no commit of the index
    assert matched(3) == [(3, "3")]
    scenes.add(Item("a copy", scene_png(3)))  # of known features
    assert sorted(matched(3)) == [(3, "3"), (4, "a copy")]
    scenes.remove("3")
    assert matched(3) == [(4, "a copy")]
    other_process(directory, "remove")  # 0 and 1
    assert matched(1) == []
    other_process(directory, "compact")
    assert matched(3) == [(1, "a copy")]
    assert matched(2) == [(0, "2")]
    give_features(directory, scene_png(2), recipe=Recipe("orb", 400, 512))  # made anew, another way
    assert matched(2) == [(0, "2")]
    assert matched(3) == []
    remove_features(directory)
    with pytest.raises(clipdex.NoLocalFeatures, match="has no local features; make them with"):
        matched(2)


@pytest.mark.slow
def test_matches_at_once_while_features_come_are_each_right(scenes: Any) -> None:
    def match(n: int) -> list[str | None]:
        return [each.id for each in scenes.match(scene_png(n % 3, CROP))]

    def change() -> None:
        for n in range(10, 16):
            scenes.add(Item(str(n), scene_png(n)))

    with ThreadPoolExecutor(5) as pool:
        changing = pool.submit(change)
        assert list(pool.map(match, range(24))) == [[str(n % 3)] for n in range(24)]
        changing.result()
    assert [each.id for each in scenes.match(scene_png(15, CROP))] == ["15"]


@pytest.mark.slow
def test_a_match_needs_no_model_unless_it_is_within_a_text(scenes: Any, opened: Opened) -> None:
    with opened(read_only=True, model=False) as pets:
        assert [each.id for each in pets.match(scene_png(1, CROP))] == ["1"]
        with pytest.raises(clipdex.InvalidArgument, match=r"no model"):
            pets.match(scene_png(1, CROP), within="a text")


NO_PICTURE = b"no picture"
WRONG: dict[str, tuple[type[Exception], Callable[[Any], Any]]] = {
    "an unknown item to search by": (clipdex.ItemNotFound, lambda pets: pets.search(item="none")),
    "an unknown row to search by": (clipdex.ItemNotFound, lambda pets: pets.similar(99)),
    "an unknown item to be similar to": (clipdex.ItemNotFound, lambda pets: pets.similar("none")),
    "an unknown item to change": (clipdex.ItemNotFound, lambda pets: pets.update_metadata("none", {})),
    "an unknown item in a mixture": (
        clipdex.InvalidArgument,
        lambda pets: pets.search(Query().plus(like="id:none")),
    ),
    "parts that cancel out": (
        clipdex.InvalidArgument,
        lambda pets: pets.search(Query().plus(text="a").minus(text="a")),
    ),
    "a blank text": (clipdex.InvalidArgument, lambda pets: pets.search(" ")),
    "an empty text": (clipdex.InvalidArgument, lambda pets: pets.search("")),
    "nothing to search for": (clipdex.InvalidArgument, lambda pets: pets.search()),
    "two things to search for": (clipdex.InvalidArgument, lambda pets: pets.search("a", item="z")),
    "a condition on no column": (clipdex.InvalidArgument, lambda pets: pets.search("a", where="nothing = 1")),
    "a condition that does something": (
        clipdex.InvalidArgument,
        lambda pets: pets.search("a", where="1) UNION SELECT 1 --"),
    ),
    "params without a condition": (clipdex.InvalidArgument, lambda pets: pets.search("a", params={"a": 1})),
    "a top_k of 0": (clipdex.InvalidArgument, lambda pets: pets.search("a", top_k=0)),
    "a top_k of a text": (clipdex.InvalidArgument, lambda pets: pets.search("a", top_k="3")),
    "a negative offset": (clipdex.InvalidArgument, lambda pets: pets.search("a", offset=-1)),
    "a min_score of 2": (clipdex.InvalidArgument, lambda pets: pets.search("a", min_score=2)),
    "a match of no picture at most": (clipdex.InvalidArgument, lambda pets: pets.match(png(0), top_k=0)),
    "a match by three points": (clipdex.InvalidArgument, lambda pets: pets.match(png(0), min_inliers=3)),
    "a match of parts of a text": (clipdex.InvalidArgument, lambda pets: pets.match(png(0), parts="yes")),
    "a match within a number": (clipdex.InvalidArgument, lambda pets: pets.match(png(0), within=3)),
    "a match without local features": (clipdex.NoLocalFeatures, lambda pets: pets.match(png(0))),
    "group of a text": (clipdex.InvalidArgument, lambda pets: pets.search("a", group="yes")),
    "a vector of another width": (
        clipdex.InvalidArgument,
        lambda pets: pets.search(vector=unit_vectors(1, 7)[0]),
    ),
    "a vector of norm 2": (clipdex.InvalidArgument, lambda pets: pets.search(vector=2 * unit_vectors(1, 8)[0])),
    "a picture that is none": (clipdex.ImageError, lambda pets: pets.search(image=NO_PICTURE)),
    "an item that is no picture": (clipdex.ImageError, lambda pets: pets.add(Item("a", NO_PICTURE))),
    "an item of norm 2": (
        clipdex.InvalidArgument,
        lambda pets: pets.add(Item("a", vector=2 * unit_vectors(1, 8)[0])),
    ),
    "an item of another width": (
        clipdex.InvalidArgument,
        lambda pets: pets.add(Item("a", vector=unit_vectors(1, 7)[0])),
    ),
    "an id with a zero byte": (clipdex.InvalidArgument, lambda pets: pets.get("a\0b")),
    "an id of a kilobyte": (clipdex.InvalidArgument, lambda pets: pets.remove("é" * 513)),
    "a field of metadata that is too long": (
        clipdex.InvalidArgument,
        lambda pets: pets.update_metadata("z", {"x": "y" * 70_000}),
    ),
}


def test_an_error_has_the_same_class_however_it_is_asked(pets: Any) -> None:
    pets.add(Item("z", png(9), metadata={"n": 1}))
    for name, (kind, use) in WRONG.items():
        try:
            use(pets)
        except clipdex.ClipdexError as raised:
            assert type(raised) is kind, f"{name}: {raised!r}"
            assert "\n" not in str(raised) and len(str(raised)) > 20, name
        else:
            pytest.fail(f"{name} was taken")
    assert [(each.id, each.metadata) for each in pets.items()] == [("z", {"n": 1})]


def test_what_cannot_be_added_fails_alone(pets: Any) -> None:
    with pytest.raises(clipdex.AddFailed, match=r"^the item 'bad' could not be added \(2 were\): ") as failed:
        pets.add([Item("a", png(0)), Item("bad", NO_PICTURE), Item("b", png(1))])
    assert failed.value.added == 2
    assert list(failed.value.failures) == ["bad"]
    assert sorted(pets.ids()) == ["a", "b"]


def test_a_collection_without_a_model_takes_and_finds_vectors(opened: Opened) -> None:
    with opened(model=False) as pets:
        vectors = unit_vectors(2, 8)
        pets.add([Item("a", vector=vectors[0]), Item("b", vector=vectors[1])])
        assert ids(pets.search(vector=vectors[1], top_k=1)) == ["b"]
        assert ids(pets.similar("a")) == ["b"]
        assert pets.get("a").width == 0
        for ask in (
            lambda: pets.search("a cat"),
            lambda: pets.search(image=png(0)),
            lambda: pets.add(Item("c", png(1))),
        ):
            with pytest.raises(clipdex.InvalidArgument, match=r"no model|no inference server"):
                ask()
        with pytest.raises(clipdex.AddFailed, match=r"no model|no inference server"):
            pets.add([Item("c", png(1))])


def test_a_server_that_fails_is_the_same_error(opened: Opened) -> None:
    errors = [
        clipdex.ServerUnreachable("at host:1 nothing answers"),
        clipdex.ServerBusy("the queue is full"),
        clipdex.DeadlineExceeded("no answer within 30 s"),
        clipdex.ServerFault("a fault"),
        clipdex.RequestRefused("not this one"),
    ]
    failing: list[Exception] = []
    transport = FakeTransport(fault=lambda model, _: failing[0] if failing and "assets" not in model else None)
    with opened(transport=transport) as pets:
        for error in errors:
            failing[:] = [error]
            with pytest.raises(clipdex.ServerError) as raised:
                pets.search("a cat")
            assert type(raised.value) is type(error)
            with pytest.raises(clipdex.ClipdexError) as raised_too:
                pets.add(Item("a", png(0)))
            assert type(raised_too.value) is type(error)


def test_items_added_at_once_are_each_there_once(pets: Any) -> None:
    start = threading.Barrier(8)

    def add(worker: int) -> None:
        start.wait()
        for i in range(4):
            pets.add(Item(f"{worker}/{i}", png(worker * 4 + i)))
            pets.add(Item("contended", png(worker)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert sorted(pets.ids()) == sorted(["contended", *(f"{w}/{i}" for w in range(8) for i in range(4))])
    assert len(pets) == 33
    for i in (0, 17, 31):
        assert ids(pets.search(image=png(i), top_k=1, min_score=0.999, where="id <> 'contended'")) == [
            f"{i // 4}/{i % 4}"
        ]


_OTHER = """
import sys, numpy as np, clipdex
from clipdex import Item
directory, what = sys.argv[1:]
if what == "compact":
    from clipdex.index.compact import compact_index
    compact_index(directory)
else:
    with clipdex.Collection.open(directory) as pets:
        if what == "remove":
            pets.remove(["0", "1"])
        else:
            pets.add(Item("theirs", vector=np.eye(8, dtype=np.float32)[0], metadata={"by": "another"}))
"""


def other_process(directory: Path, what: str) -> None:
    subprocess.run([sys.executable, "-c", _OTHER, directory, what], check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [False, True])
def test_what_another_process_commits_is_seen(opened: Opened, tmp_path: Path, read_only: bool) -> None:
    with opened() as pets:
        pets.add([Item(str(i), png(i)) for i in range(3)])
    with opened(read_only=read_only) as pets:
        assert len(pets) == 3
        other_process(tmp_path / "x.clipdex", "add")
        assert len(pets) == 4
        assert pets.get("theirs").metadata == {"by": "another"}
        assert ids(pets.search(vector=np.eye(8, dtype=np.float32)[0], top_k=1)) == ["theirs"]
        other_process(tmp_path / "x.clipdex", "remove")
        assert list(pets.ids()) == ["2", "theirs"]
        other_process(tmp_path / "x.clipdex", "compact")
        assert [(each.row, each.id) for each in pets.items()] == [(0, "2"), (1, "theirs")]
        assert pets.similar(1, top_k=1)[0][0].row == 0
        if not read_only:
            pets.add(Item("ours", png(7)))
            assert pets.get("ours").row == 2


def test_another_writer_is_an_error_that_passes(opened: Opened, tmp_path: Path) -> None:
    with opened() as pets:
        pets.add(Item("a", png(0)))
        with clipdex.IndexWriter(tmp_path / "x.clipdex"):
            with pytest.raises(clipdex.IndexLocked):
                pets.add(Item("b", png(1)))
            assert ids(pets.search("x")) == ["a"]
        assert pets.add(Item("b", png(1))) == 1


def test_a_read_only_collection_refuses_every_change(opened: Opened) -> None:
    with opened() as pets:
        pets.add(Item("a", png(0)))
    with opened(read_only=True) as pets:
        for change in (
            lambda: pets.add(Item("b", png(1))),
            lambda: pets.add([Item("b", png(1))]),
            lambda: pets.remove("a"),
            lambda: pets.update_metadata("a", {"n": 1}),
        ):
            with pytest.raises(pets.refused, match=r"read.only"):
                change()
        assert [(each.id, each.metadata) for each in pets.items()] == [("a", {})]


def test_an_index_of_another_model_in_its_place_is_refused(opened: Opened, tmp_path: Path) -> None:
    with opened(read_only=True) as pets:
        assert len(pets) == 0
        with (
            clipdex.Client(FakeTransport(weights="others")) as other,
            Collection.open(tmp_path / "y.clipdex", client=other) as theirs,
        ):
            theirs.add(Item("b", noise(1)))
        (tmp_path / "x.clipdex").rename(tmp_path / "gone.clipdex")
        (tmp_path / "y.clipdex").rename(tmp_path / "x.clipdex")
        for ask in (lambda: pets.search("a cat"), lambda: pets.get("b"), lambda: pets.items()):
            with pytest.raises(clipdex.FingerprintMismatch, match="was replaced by an index of"):
                ask()
        (tmp_path / "x.clipdex").rename(tmp_path / "y.clipdex")
        (tmp_path / "gone.clipdex").rename(tmp_path / "x.clipdex")
        assert pets.search("a cat") == ([], [])
