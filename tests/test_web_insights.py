"""Embeddings for OpenAI's clients, classification, duplicates, failures, columns, facets, health and metrics."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import noise, png, unit_vectors
from pictures_with_exif import bag, exif_block, packet, picture
from scenes import give_features, scene_png

import clipdex
from clipdex import Collection, Item
from clipdex.index import Index
from clipdex.index.facets import Facets
from clipdex.index.side.feature_file import remove_features
from clipdex.looks.local_features import Recipe
from clipdex.wire import FakeTransport

pytest.importorskip("fastapi")

from web_server import answering, settings_of

from clipdex.web.schemas.hits import HitOut


def as_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def made(directory: Path) -> Path:
    """Thirty items with metadata, of which one was removed again."""
    vectors = unit_vectors(30, 8)
    with clipdex.Client(FakeTransport()) as client, Collection.open(directory, client=client) as pictures:
        pictures.add(
            Item(
                f"i{k}",
                vector=vectors[k],
                metadata={"by": ("Ada", "Bob's")[k % 2], "tags": ["a", "b"] if k % 3 else ["a"], "n": k % 4},
            )
            for k in range(30)
        )
        pictures.remove(["i3"])
    return directory


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return made(tmp_path / "pets.clipdex")


@pytest.fixture
def of_folder(update: Callable[..., Any], pictures: Path, tmp_path: Path) -> Path:
    """An index of a folder with a copy, a resized picture and a broken file."""
    (pictures / "copy.png").write_bytes((pictures / "0.png").read_bytes())
    noise(1).resize((80, 60)).save(pictures / "large.png")
    (pictures / "broken.png").write_bytes(b"no picture")
    update(pictures)
    return tmp_path / "x"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An application that nobody writes to."""
    with answering(settings_of(made(tmp_path_factory.mktemp("web") / "pets.clipdex"))) as client:
        yield client


# Embeddings, in the shape of OpenAI's clients


@contextmanager
def openai_of(web: Any) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    yield openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=web, max_retries=0)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_openais_client_gets_the_vectors_of_texts_and_pictures(web, fake, encoding):
    """`None` is what the client sends by itself: base64."""
    given = ["a dog", as_uri(png(1)), "a cat", as_uri(png(2)), "data: is no picture"]
    asked = {} if encoding is None else {"encoding_format": encoding}
    with openai_of(web) as client:
        found = client.embeddings.create(model="fake", input=given, **asked)
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(each.embedding), "<f4") for each in found.data]
    else:
        vectors = [np.array(each.embedding, np.float32) for each in found.data]
    texts = fake.embed_texts(["a dog", "a cat", "data: is no picture"])
    pictures = fake.embed_images([png(1), png(2)])
    for vector, same in zip(vectors, (texts[0], pictures[0], texts[1], pictures[1], texts[2]), strict=True):
        assert np.array_equal(vector, same)
    assert [each.index for each in found.data] == [0, 1, 2, 3, 4]
    # A token for each letter, and one for the end.
    assert found.usage.prompt_tokens == found.usage.total_tokens == 6 + 6 + len("data: is no picture") + 1


def test_a_picture_may_come_as_a_part_of_a_message(web, fake):
    uri = as_uri(png(1))
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "a dog"}]
    found = web.post("/v1/embeddings", json={"model": "clipdex", "input": parts}).json()
    assert np.array_equal(np.float32(found["data"][0]["embedding"]), fake.embed_images([png(1)])[0])
    assert np.array_equal(np.float32(found["data"][1]["embedding"]), fake.embed_texts(["a dog"])[0])


def test_many_texts_are_sent_in_full_batches(index):
    transport = FakeTransport()
    with answering(settings_of(index), transport) as web:
        transport.requests.clear()
        found = web.post("/v1/embeddings", json={"model": "fake", "input": [f"text {i}" for i in range(100)]})
    assert found.status_code == 200 and len(found.json()["data"]) == 100
    assert sorted(rows for model, rows in transport.requests if model == "fake_text") == [4, *[16] * 6]


def test_an_end_that_is_not_embedded_is_told(web):
    found = web.post("/v1/embeddings", json={"model": "fake", "input": ["short", "x" * 80]}).json()
    assert found["cut"] == [{"index": 1, "text": "x" * 17}]
    assert found["usage"]["prompt_tokens"] == 6 + 64


@pytest.mark.parametrize(
    "body, status, says",
    [
        ({"model": "fake", "input": [1, 2]}, 422, "token ids"),
        ({"model": "fake", "input": [[1, 2]]}, 422, "token ids"),
        ({"model": "fake", "input": []}, 422, "at least 1"),
        ({"model": "fake", "input": ["a"] * 2049}, 422, "at most 2048"),
        ({"model": "fake", "input": ""}, 422, "at least 1"),
        ({"model": "other", "input": "a"}, 404, "no model 'other' is served; expected fake"),
        ({"model": "fake", "input": "a", "dimensions": 7}, 422, "dimensions is 7; expected 8"),
        ({"model": "fake", "input": "a", "format": "x"}, 422, "format"),
        ({"model": "fake", "input": as_uri(b"no picture")}, 422, "input[0]"),
        ({"model": "fake", "input": "data:image/png;base64,?"}, 422, "base64"),
        ({"model": "fake", "input": [as_uri(b"x")] * 257}, 422, "256 pictures"),
        (
            {"model": "fake", "input": [{"type": "image_url", "image_url": "http://127.0.0.1/a.png"}]},
            422,
            "nothing is fetched",
        ),
    ],
)
def test_a_wrong_request_for_embeddings_is_told_to_both_kinds_of_clients(web, body, status, says):
    answer = web.post("/v1/embeddings", json=body)
    assert answer.status_code == status and answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert says in said["detail"] and said["error"]["message"] == said["detail"]
    openai = pytest.importorskip("openai")
    with openai_of(web) as client, pytest.raises(openai.APIStatusError) as raised:
        client.post("/embeddings", body=body, cast_to=object)
    assert says in str(raised.value) and raised.value.body["message"] == said["detail"]


def test_a_failing_server_is_told_to_openais_client(index):
    down: list[bool] = []

    def fault(model: str, _: object) -> Exception | None:
        return clipdex.ServerBusy("its queue is full") if down and model == "fake_text" else None

    with answering(settings_of(index), FakeTransport(fault=fault)) as web:
        down.append(True)
        answer = web.post("/v1/embeddings", json={"model": "fake", "input": "a"})
    assert answer.status_code == 503 and answer.headers["retry-after"] and answer.json()["error"]["message"]


def test_openais_client_lists_the_models(web):
    openai = pytest.importorskip("openai")
    with openai_of(web) as client:
        (model,) = client.models.list().data
        assert (model.id, model.object, model.owned_by) == ("fake", "model", "clipdex")
        assert client.models.retrieve("clipdex").id == client.models.retrieve("pets").id == "fake"
        with pytest.raises(openai.NotFoundError, match="no model 'gpt' is served"):
            client.models.retrieve("gpt")


def test_without_an_inference_server_there_are_no_models(index):
    with answering(settings_of(index, fake=False)) as web:
        assert web.get("/v1/models").json()["data"] == []
        said = web.post("/v1/embeddings", json={"model": "fake", "input": "a"}).json()
    assert "no model server" in said["error"]["message"]


# Classification


def test_a_picture_is_classified_as_the_client_does(web, index, fake):
    labels, templates = ["a dog", "a cat", "a fish"], ["a photo of {}", "{}"]
    found = web.post("/v1/classify", json={"labels": labels, "templates": templates, "image": as_uri(png(1))})
    (expected,) = fake.classify([png(1)], labels, templates=templates)
    by_label = {each["label"]: each["probability"] for each in found.json()["labels"]}
    assert [by_label[label] for label in labels] == pytest.approx(expected.tolist())
    probabilities = [each["probability"] for each in found.json()["labels"]]
    assert probabilities == sorted(probabilities, reverse=True)
    form = {"request": '{"labels": ["a dog", "a cat", "a fish"], "templates": ["a photo of {}", "{}"]}'}
    sent = web.post("/v1/classify", data=form, files={"image": ("a.png", png(1))})
    assert sent.json() == found.json()


def test_pictures_of_the_index_are_classified_by_id_and_row(web):
    labels = {"labels": ["a dog", "a cat"]}
    by_id = web.post("/v1/classify", json=labels | {"id": "i5"}).json()
    assert by_id == web.post("/v1/classify", json=labels | {"row": 5}).json()
    assert sum(each["probability"] for each in by_id["labels"]) == pytest.approx(1)
    with Collection.open(web.app.state.settings.indexes[0], read_only=True) as pictures:
        assert all(-1 <= each["score"] <= 1 for each in by_id["labels"]) and pictures.vector("i5").shape == (8,)


@pytest.mark.parametrize(
    "body, status, says",
    [
        ({"labels": ["a", "b"]}, 422, "exactly one of image, id and row"),
        ({"labels": ["a", "b"], "id": "i1", "row": 1}, 422, "exactly one of image, id and row"),
        ({"labels": ["a", "b"], "id": "nobody"}, 404, "nobody"),
        ({"labels": ["a", "a"], "row": 1}, 422, "given twice"),
        ({"labels": ["a"], "row": 1}, 422, "too few labels"),
        ({"labels": ["a", "b"], "row": 1, "templates": ["x"]}, 422, "has no {}"),
        ({"labels": [f"l{i}" for i in range(1000)], "row": 1, "templates": ["{}"] * 11}, 422, "too many texts"),
    ],
)
def test_a_wrong_request_for_labels_is_told(web, body, status, says):
    answer = web.post("/v1/classify", json=body)
    assert answer.status_code == status and says in answer.json()["detail"]


# Duplicates


def test_duplicates_are_listed_with_the_one_to_keep_first(of_folder):
    with answering(settings_of(of_folder)) as web:
        exact = web.get("/v1/duplicates", params={"kind": "exact"}).json()
        near = web.get("/v1/duplicates").json()
        page = web.get("/v1/duplicates", params={"limit": 1, "offset": 1}).json()
        first = web.get("/v1/duplicates", params={"limit": 1}).json()
    (group,) = exact["groups"]
    assert {each["name"] for each in group["pictures"]} == {"0.png", "copy.png"}
    assert [each["relation"] for each in group["pictures"]] == ["keeper", "exact"]
    assert all(each["path"] is None and each["thumbnail"] for each in group["pictures"])
    assert (near["total"], near["duplicates"], near["pictures"]) == (2, 2, 14)
    assert {group["pictures"][0]["name"] for group in near["groups"]} & {"large.png"}
    assert first["next_offset"] == 1 and page["next_offset"] is None
    assert first["groups"] + page["groups"] == near["groups"]


def test_duplicates_are_computed_once_and_again_after_a_commit(index, monkeypatch):
    import clipdex.apps.duplicates as found
    from clipdex.web.routes import duplicates

    times = []
    real = found.find_duplicates
    monkeypatch.setattr(duplicates, "find_duplicates", lambda *a, **k: times.append(1) or real(*a, **k))
    with answering(settings_of(index, allow_write=True)) as web:
        query = {"kind": "semantic", "min_similarity": 0.9999}
        before = [web.get("/v1/duplicates", params=query).json() for _ in range(3)]
        assert len(times) == 1 and before[0]["total"] == 0
        vector = unit_vectors(30, 8)[5].tolist()
        web.put("/v1/items/twin", json={"vector": vector})
        after = web.get("/v1/duplicates", params=query).json()
        web.get("/v1/duplicates", params={**query, "min_similarity": 0.9})
    assert len(times) == 3 and after["total"] == 1 and not after["stale"]


@pytest.mark.slow
def test_local_duplicates_are_computed_again_once_there_are_other_features_or_neighbours(tmp_path, monkeypatch):
    pytest.importorskip("cv2", reason="local features need the extra features")
    pytest.importorskip("faiss", reason="neighbours need the extra features")
    import clipdex.apps.duplicates as found
    from clipdex.features.build_neighbours import build_neighbours
    from clipdex.web.routes import duplicates

    times = []
    real = found.find_duplicates
    monkeypatch.setattr(duplicates, "find_duplicates", lambda *a, **k: times.append(1) or real(*a, **k))
    index, pictures = tmp_path / "x.clipdex", [scene_png(0), scene_png(0, (0, 0, 260, 200)), scene_png(1)]
    with clipdex.Client(FakeTransport()) as client, clipdex.Collection.open(index, client=client) as collection:
        collection.add([clipdex.Item(str(n), each) for n, each in enumerate(pictures)])
    give_features(index, pictures[0])
    with answering(settings_of(index)) as web:

        def groups() -> tuple[int, int]:
            asked = [web.get("/v1/duplicates", params={"kind": "local"}).json() for _ in range(2)]
            assert asked[0] == asked[1] and not asked[0]["stale"]
            web.get("/v1/duplicates", params={"kind": "exact"})
            return asked[0]["total"], len(times)

        assert groups() == (0, 2)
        give_features(index, pictures[1])  # no commit of the index
        assert groups() == (1, 3)
        build_neighbours(index, fewest=1)
        assert groups() == (1, 4)
        give_features(index, pictures[0], recipe=Recipe("orb", 300, 512))
        assert groups() == (0, 5)
        remove_features(index)
        answer = web.get("/v1/duplicates", params={"kind": "local"})
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:clipdex:NoLocalFeatures")


def test_who_asks_while_duplicates_are_computed_is_told_to_come_back(index, monkeypatch):
    import clipdex.apps.duplicates as found
    from clipdex.web.routes import duplicates

    go, real = threading.Event(), found.find_duplicates

    def slow(*given: Any, **options: Any) -> Any:
        assert go.wait(20)
        return real(*given, **options)

    monkeypatch.setattr(duplicates, "find_duplicates", slow)
    monkeypatch.setattr(duplicates, "_WAIT_S", 0.05)
    with answering(settings_of(index, allow_write=True)) as web:
        busy = web.get("/v1/duplicates")
        assert busy.status_code == 503 and "being computed" in busy.json()["detail"]
        assert int(busy.headers["retry-after"]) > 0
        assert web.get("/v1/search", params={"text": "a dog"}).status_code == 200
        go.set()
        assert _until(lambda: web.get("/v1/duplicates")).json()["stale"] is False
        go.clear()
        web.put("/v1/items/late", json={"vector": unit_vectors(1, 8)[0].tolist()})
        assert web.get("/v1/duplicates").json()["stale"] is True  # the answer before, meanwhile
        go.set()


def _until(ask: Callable[[], Any]) -> Any:
    for _ in range(100):
        answer = ask()
        if answer.status_code == 200:
            return answer
        time.sleep(0.02)
    pytest.fail("it was never computed")


def test_a_comparison_ends_with_the_application(index, monkeypatch):
    from clipdex.web.routes import duplicates

    ended = []

    def endless(*_: Any, progress: Callable[[int, int], None], **__: Any) -> Any:
        try:
            while True:
                progress(0, 1)
                time.sleep(0.01)
        finally:
            ended.append(True)

    monkeypatch.setattr(duplicates, "find_duplicates", endless)
    monkeypatch.setattr(duplicates, "_WAIT_S", 0.05)
    with answering(settings_of(index)) as web:
        assert web.get("/v1/duplicates").status_code == 503
    assert ended


@pytest.mark.parametrize("query", ["kind=other", "kind=exact&min_similarity=0.9", "min_similarity=0", "limit=101"])
def test_a_wrong_request_for_duplicates_is_told(web, query):
    assert web.get(f"/v1/duplicates?{query}").status_code == 422


# Failures


@pytest.mark.parametrize("show_paths", [False, True])
def test_failures_are_paged_and_show_a_path_only_if_asked_to(update, tmp_path, show_paths):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        (folder / f"broken{i}.png").write_bytes(b"no picture")
    noise(1).save(folder / "good.png")
    update(folder)
    with answering(settings_of(tmp_path / "x", show_paths=show_paths)) as web:
        first = web.get("/v1/failures", params={"limit": 3}).json()
        text = web.get("/v1/failures", params={"limit": 3, "offset": 3}).text
        second = web.get("/v1/failures", params={"limit": 3, "offset": 3}).json()
    assert [each["name"] for each in first["failures"]] == ["broken0.png", "broken1.png", "broken2.png"]
    assert [each["name"] for each in second["failures"]] == ["broken3.png", "broken4.png"]
    assert (first["total"], first["next_offset"], second["next_offset"]) == (5, 3, None)
    assert (str(folder) in text) is show_paths
    assert (second["failures"][0]["path"] is not None) is show_paths and second["failures"][0]["reason"]


# Columns and facets


@pytest.mark.parametrize("by", ["by", "tags", "n", "width", "modified", "meta.by", "size"])
@pytest.mark.parametrize("where", [None, "meta ->> 'n' = 1"])
def test_the_condition_of_a_value_finds_the_pictures_that_were_counted(index, by, where):
    with Index.open(index) as opened:
        found = Facets(opened).counts(by, where=where)
        assert found.values and not found.others
        for _, count, condition in found.values:
            both = condition if where is None else f"({condition}) AND {where}"
            assert len(opened.where(both)) == count


def test_facets_count_lists_by_their_values_and_leave_removed_pictures_out(web):
    found = web.get("/v1/facets", params={"by": "tags"}).json()
    assert [(each["value"], each["count"]) for each in found["values"]] == [("a", 29), ("b", 20)]
    some = web.get("/v1/facets", params={"by": "by", "where": "has(meta, 'tags', :t)", "params": '{"t": "b"}'})
    assert sum(each["count"] for each in some.json()["values"]) == 20
    few = web.get("/v1/facets", params={"by": "by", "limit": 1}).json()
    assert (len(few["values"]), few["distinct"], few["others"]) == (1, 2, 14)
    assert web.get("/v1/facets", params={"by": "meta.no such key"}).json()["missing"] == 29


def test_a_facet_by_a_name_that_nothing_has_says_what_there_is(web, index):
    answer = web.get("/v1/facets", params={"by": "nope"})
    assert answer.status_code == 422
    said = answer.json()["detail"]
    assert said.startswith("there is no column 'nope', and no picture has metadata of that name; expected one of ")
    assert " width, " in said and said.endswith(" by, n, tags, or meta.KEY") and " row, " not in said
    with Index.open(index) as opened:  # that none of these pictures has it is no mistake
        assert Facets(opened).counts("by", where="row < 0").values == []
        assert Facets(opened).counts("camera").values == []


def test_a_facet_by_a_rare_key_is_known_although_no_picture_of_the_sample_has_it(index, monkeypatch):
    from clipdex.index import facets

    with clipdex.Collection.open(index) as pets:
        pets.update_metadata("i1", {"rare": 1})
    monkeypatch.setattr(facets, "_MOST_COUNTED", 2)
    with Index.open(index) as opened:
        found = Facets(opened).counts("rare")
        assert (found.values, found.sampled) == ([], 2)
        with pytest.raises(clipdex.InvalidArgument, match="no column 'raer'"):
            Facets(opened).counts("raer")


def test_times_are_counted_by_year_and_month(of_folder):
    import os

    with Index.open(of_folder) as opened:
        paths = [os.fsdecode(path) for _, path in opened.live_paths()]
    assert paths
    with answering(settings_of(of_folder)) as web:
        month = web.get("/v1/facets", params={"by": "modified"}).json()["values"][0]
        year = web.get("/v1/facets", params={"by": "modified", "unit": "year"}).json()["values"][0]
        found = web.get("/v1/search", params={"text": "a", "where": year["where"]}).json()
    assert len(month["value"]) == 7 and month["value"].startswith(year["value"]) and len(year["value"]) == 4
    assert len(found["hits"]) == year["count"] == 14


def test_facets_see_a_commit(index):
    with answering(settings_of(index, allow_write=True)) as web:
        before = web.get("/v1/facets", params={"by": "by"}).json()["values"]
        web.patch("/v1/items/i0", json={"metadata": {"by": "Eve"}})
        after = web.get("/v1/facets", params={"by": "by"}).json()["values"]
    assert [each["value"] for each in before] == ["Ada", "Bob's"]
    assert [each["value"] for each in after] == ["Ada", "Bob's", "Eve"]


@pytest.mark.parametrize(
    "query, status",
    [
        ({"by": "row"}, 422),
        ({"by": "$.a"}, 422),
        ({"by": 'a"b'}, 422),
        ({"by": "folder"}, 403),
        ({"by": "by", "where": "folder = '/'"}, 403),
        ({"by": "by", "where": "SELECT 1"}, 422),
        ({"by": "by", "where": "load_extension('x')"}, 422),
        ({"by": "by", "where": "count(*) > 1"}, 422),
        ({"by": "by", "params": "{}"}, 422),
        ({"by": "by", "where": "n = :n", "params": "[]"}, 422),
        ({"by": "by", "limit": 1001}, 422),
        ({"by": "by') OR 1=1 --"}, 422),
        ({"by": "meta.by') OR 1=1 --"}, 200),
    ],
)
def test_a_facet_that_cannot_be_is_refused(web, query, status):
    assert web.get("/v1/facets", params=query).status_code == status


def test_folders_are_counted_where_paths_are_shown(of_folder):
    with answering(settings_of(of_folder, show_paths=True)) as web:
        found = web.get("/v1/facets", params={"by": "folder"}).json()
        names = [each["name"] for each in web.get("/v1/columns").json()["columns"]]
    assert [(each["value"].rpartition("/")[2], each["count"]) for each in found["values"]] == [
        ("pictures", 11),
        ("more", 3),
    ]
    assert {"path", "folder"} <= set(names)


def test_a_statement_of_ours_is_no_way_round_the_authorizer_of_conditions(index):
    with Index.open(index) as opened:
        Facets(opened).columns()
        for condition in ("row IN main.rows", "count(*) > 0", "deleted_at IS NULL", "main.rows.deleted_at = 1"):
            with pytest.raises(clipdex.InvalidArgument):
                opened.where(condition)


def test_values_without_end_are_not_counted(index, monkeypatch):
    from clipdex.index import facets

    monkeypatch.setattr(facets, "_MOST_VALUES", 3)
    with Index.open(index) as opened, pytest.raises(clipdex.InvalidArgument, match="more than 3 different values"):
        Facets(opened).counts("n")


@pytest.mark.parametrize("by", ["by", "tags", "width", "modified"])
def test_facets_of_many_pictures_are_estimated_from_some_of_them(index, monkeypatch, by):
    from clipdex.index import facets

    with Index.open(index) as opened:
        counted = Facets(opened).counts(by)
        assert counted.sampled is None
        monkeypatch.setattr(facets, "_MOST_COUNTED", 28)
        monkeypatch.setattr(facets, "_NAMED_AT_ONCE", 10)
        found = Facets(opened).counts(by)
        assert found.sampled == 28 and {each[::2] for each in found.values} == {
            each[::2] for each in counted.values
        }
        for (_, about, _), (_, true, _) in zip(found.values, counted.values, strict=True):
            assert abs(about - true) <= 1
        few = Facets(opened).counts(by, where="row < 20")
        monkeypatch.undo()
        assert few == Facets(opened).counts(by, where="row < 20")


def test_long_values_are_among_the_others(tmp_path, fake):
    with Collection.open(tmp_path / "y.clipdex", client=fake) as pictures:
        pictures.add([Item("a", vector=unit_vectors(1, 8)[0], metadata={"t": "x" * 300})])
    with Index.open(tmp_path / "y.clipdex") as opened:
        found = Facets(opened).counts("t")
    assert (found.values, found.others, found.missing) == ([], 1, 0)


def test_columns_say_what_they_hold(web):
    from clipdex.index.where import COLUMNS

    found = web.get("/v1/columns").json()
    columns = {each["name"]: each for each in found["columns"]}
    assert set(columns) == {*COLUMNS, "by", "tags", "n"} - {"path", "folder"} and found["sampled"] == 29
    assert columns["modified"]["kind"] == "time" and columns["width"]["kind"] == "integer"
    assert columns["row"]["least"] == 0 and columns["row"]["greatest"] == 29
    assert columns["by"]["values"] == [{"value": "Ada", "count": 15}, {"value": "Bob's", "count": 14}]
    assert columns["tags"]["kind"] == "list" and columns["tags"]["values"][0] == {"value": "a", "count": 29}
    assert (columns["n"]["least"], columns["n"]["greatest"], columns["n"]["of_metadata"]) == (0, 3, True)
    for column in found["columns"]:
        answer = web.get("/v1/search", params={"text": "a", "where": f"{column['sql']} IS NOT NULL"})
        assert answer.status_code == 200 and bool(answer.json()["hits"]) == column["there"], column


def test_what_files_say_is_in_answers_columns_and_facets(fake, tmp_path):
    block = exif_block(place=(48.1371, 11.5754), model="Pixel 7")
    with Collection.open(tmp_path / "y.clipdex", client=fake) as pictures:
        pictures.add([Item("a", picture(exif=block, xmp=packet(bag("dc:subject", "sea")))), Item("b", png(1))])
    with answering(settings_of(tmp_path / "y.clipdex")) as web:
        hits = {hit["id"]: hit for hit in web.get("/v1/search", params={"text": "a"}).json()["hits"]}
        for hit in hits.values():  # made by hand, and yet of the schema, in its order
            assert list(HitOut(**hit).model_dump(mode="json").items()) == list(hit.items())
        said = {name: value for name, value in hits["a"]["exif"].items() if value is not None}
        place = {"latitude": 48.1371, "longitude": 11.5754}
        assert said == {"taken": "2024-06-01T17:30:00", "camera": "Pixel 7", "keywords": ["sea"], **place}
        assert hits["b"]["exif"] is None and web.get("/v1/items/a").json()["exif"] == hits["a"]["exif"]
        columns = {each["name"]: each for each in web.get("/v1/columns").json()["columns"]}
        kinds = {name: columns[name]["kind"] for name in ("taken", "camera", "keywords", "latitude")}
        assert kinds == {"taken": "time", "camera": "text", "keywords": "list", "latitude": "real"}
        assert columns["keywords"]["values"] == [{"value": "sea", "count": 1}] and columns["keywords"]["there"]
        for by, value in (("taken", "2024-06"), ("camera", "Pixel 7"), ("keywords", "sea")):
            (facet,) = web.get("/v1/facets", params={"by": by}).json()["values"]
            assert (facet["value"], facet["count"]) == (value, 1)
            found = web.get("/v1/search", params={"text": "a", "where": facet["where"]}).json()
            assert [hit["id"] for hit in found["hits"]] == ["a"]


# Health and metrics


def test_health_and_readiness_are_apart(index):
    down: list[bool] = []

    class Transport(FakeTransport):
        def models(self, timeout_s: float) -> list[str]:
            return [] if down else super().models(timeout_s)

    with answering(settings_of(index), Transport()) as web:
        assert web.get("/healthz").json() == {"status": "ok"}
        assert web.get("/readyz").json() == {"status": "ready", "indexes": ["pets"], "model": True}
        down.append(True)
        answer = web.get("/readyz")
        assert answer.status_code == 503 and "model server" in answer.json()["detail"]
        assert answer.headers["retry-after"] and web.get("/healthz").status_code == 200
        assert "clipdex_server_ready 0.0" in web.get("/metrics").text


def test_an_index_that_is_gone_is_not_ready(index):
    with answering(settings_of(index, fake=False)) as web:
        assert web.get("/readyz").json()["model"] is False
        index.rename(index.with_name("elsewhere"))
        answer = web.get("/readyz")
        assert answer.status_code == 503 and "the index pets cannot be read" in answer.json()["detail"]
        assert 'clipdex_index_ready{index="pets"} 0.0' in web.get("/metrics").text


def test_metrics_count_requests_by_their_routes(index):
    with answering(settings_of(index, allow_write=True)) as web:
        web.get("/v1/search", params={"text": "a"})
        web.get("/v1/items/i1")
        web.get("/v1/items/nobody")
        web.get("/v1/secret/of/somebody")
        web.request("BREW", "/v1/search")
        text = web.get("/metrics").text
    assert 'requests_total{method="GET",route="/v1/search",status="200"} 1.0' in text
    assert 'requests_total{method="GET",route="/v1/items/{id:item}",status="200"} 1.0' in text
    assert 'requests_total{method="GET",route="/v1/items/{id:item}",status="404"} 1.0' in text
    assert 'requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert 'method="other"' in text and "BREW" not in text
    assert "nobody" not in text and "secret" not in text
    assert "clipdex_searches_total 1.0" in text and "clipdex_http_requests_in_flight 1.0" in text
    assert 'clipdex_index_pictures{index="pets"} 29.0' in text
    assert 'seconds_count{method="GET",route="/v1/search"} 1.0' in text


@pytest.mark.parametrize("item_id", ["a/b", "two\nlines", "ends\n", " ", "%", "é"])
def test_any_id_can_be_in_an_address(index, item_id):
    from urllib.parse import quote

    with answering(settings_of(index, allow_write=True)) as web:
        address = f"/v1/items/{quote(item_id, safe='')}"
        assert web.put(address, json={"vector": unit_vectors(1, 8)[0].tolist()}).status_code == 200
        assert web.get(address).json()["id"] == item_id
        assert web.delete(address).status_code == 204


@pytest.mark.slow
def test_metrics_count_what_is_added_and_what_cannot_be_decoded(index):
    with answering(settings_of(index, allow_write=True)) as web:
        web.put("/v1/items/one", content=png(1), headers={"content-type": "image/png"})
        web.put("/v1/items/bad", content=b"no picture", headers={"content-type": "image/png"})
        given = [{"id": "two", "image": as_uri(png(2))}, {"id": "worse", "image": as_uri(b"no picture")}]
        assert web.post("/v1/items", json=given).status_code == 422
        web.post("/v1/search", json={"image": as_uri(b"no picture")})
        text = web.get("/metrics").text
    assert "clipdex_items_added_total 2.0" in text and "clipdex_decode_failures_total 3.0" in text


def test_each_application_has_metrics_of_its_own(index):
    with answering(settings_of(index)) as one:
        one.get("/healthz")
    with answering(settings_of(index)) as other:
        assert "/healthz" not in other.get("/metrics").text


class _Commits:
    """What `Computing` asks of a collection: a number that commits raise."""

    number = 0

    async def moment(self) -> int:
        return self.number


def test_an_answer_begun_before_a_commit_says_so_to_those_who_ask_after_it() -> None:
    from clipdex.web.computing import Computed, Computing

    commits, goes_on = _Commits(), threading.Event()
    held: Any = SimpleNamespace(name="x", collection=commits)

    def compute(worker: object) -> int:
        seen = commits.number
        assert goes_on.wait(10)
        return seen

    async def asked() -> list[Computed[int]]:
        computing = Computing("test")
        try:

            def ask() -> asyncio.Task[Computed[int]]:
                return asyncio.ensure_future(computing.answer(held, "q", compute, wait_s=10, what="it is"))

            before = ask()
            await asyncio.sleep(0.1)
            commits.number = 1
            after = ask()
            await asyncio.sleep(0.1)
            goes_on.set()
            return [await before, await after, await ask()]
        finally:
            await computing.close()

    assert asyncio.run(asked()) == [Computed(0), Computed(0, stale=True), Computed(1)]
