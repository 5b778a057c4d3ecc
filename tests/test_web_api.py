"""What REST adds to the collection: bodies and their bounds, pages, versions, statuses, and what is not shown."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conftest import noise, png

import clipdex
from clipdex import Collection, Item
from clipdex.base import errors
from clipdex.wire import FakeTransport

pytest.importorskip("fastapi", reason="the REST API needs the extra web")
from fastapi.testclient import TestClient
from web_server import answering, settings_of

from clipdex.web import WebSettings, create_app, problems
from clipdex.web.problems import Forbidden, Hidden, problem_of, status_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of twelve pictures of a folder and two items, and the folder beside it."""
    place = tmp_path_factory.mktemp("made")
    (place / "pictures").mkdir()
    for i in range(12):
        noise(i).save(place / "pictures" / f"{i}.{'png' if i < 9 else 'jpg'}")
    with clipdex.Client(FakeTransport()) as client:
        clipdex.index_pictures(client, place / "pictures", place / "x.clipdex", workers=1)
        with Collection.open(place / "x.clipdex", client=client) as pets:
            pets.add([Item("a", png(100), metadata={"title": "one"}), Item("b/c", png(101))])
    return place / "x.clipdex"


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Path:
    """A copy of it that the test may change."""
    return Path(shutil.copytree(made, tmp_path / "x.clipdex"))


def test_a_model_server_that_is_away_is_reported_before_the_time_of_a_request_is_up(index: Path) -> None:
    seen: list[dict[str, object]] = []

    def connect(*_: object, **settings: object) -> clipdex.Client:
        seen.append(settings)
        return clipdex.Client(FakeTransport())

    for settings in (
        settings_of(index, request_timeout_s=60.0),
        settings_of(index, request_timeout_s=60.0, connection={"timeout_s": 50.0}),
    ):
        with (
            mock.patch("clipdex.collection.open_collection.connect", connect),
            TestClient(create_app(settings)),
        ):
            pass
    assert [each["timeout_s"] for each in seen] == [15.0, 50.0]


@pytest.fixture
def http(index: Path) -> Iterator[Any]:
    with answering(settings_of(index, allow_write=True, max_upload_bytes=20_000)) as client:
        yield client


def detail(answer: Any, status: int) -> str:
    """The sentence of a problem, whose form is checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said["status"] == status and said["type"].startswith("urn:clipdex:") and said["title"]
    assert "\n" not in said["detail"] and len(said["detail"]) > 5
    return str(said["detail"])


def test_what_waits_for_nothing_is_run_in_no_thread(http: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("FastAPI runs a dependency in a thread")

    monkeypatch.setattr("fastapi.dependencies.utils.run_in_threadpool", refused)
    assert http.get("/v1/similar", params={"row": 1, "top_k": 3}).status_code == 200
    assert http.request("DELETE", "/v1/items/none").status_code == 404


def test_a_hit_has_what_a_page_needs_and_no_path_of_the_server(http: Any, made: Path) -> None:
    answer = http.get("/v1/search", params={"text": "x", "top_k": 14})
    assert str(made.parent) not in answer.text
    hits = {hit["name"]: hit for hit in answer.json()["hits"]}
    assert set(hits) == {"a", "b/c", *(f"{i}.png" for i in range(9)), *(f"{i}.jpg" for i in range(9, 12))}
    one = hits["3.png"]
    assert (one["id"], one["path"], one["width"], one["height"]) == (None, None, 40, 30)
    version = one["version"]
    assert len(version) == 16 and one["thumbnail"] == f"/v1/pictures/{one['row']}/thumbnail?v={version}"
    assert one["original"] == f"/v1/pictures/{one['row']}/original?v={version}"
    assert hits["a"]["path"] == "id:a" and hits["a"]["original"] is None
    assert one["modified"].endswith("Z") and one["size"] > 0
    stored = http.get(f"/v1/pictures/{one['row']}", params={"v": version})
    assert stored.json() == {name: one[name] for name in stored.json()}


def test_paths_are_shown_where_the_operator_says_so(index: Path, made: Path) -> None:
    with answering(settings_of(index, show_paths=True)) as http:
        found = http.get("/v1/search", params={"text": "x", "where": "path GLOB '*/3.png'"}).json()
        assert [hit["path"] for hit in found["hits"]] == [str(made.parent / "pictures" / "3.png")]
        assert http.get("/v1/info").json()["path"] == str(index)


COMPARING = [
    "path GLOB '/*'",
    'PATH > "a"',
    "\"path\" LIKE '%a%'",
    "[folder] = '/'",
    "`Folder` = '/'",
    "length(pictures.'path') > 3",
    "row = 1 OR (folder IS NOT NULL)",
    "near_nothing(1) AND path = 2",
    "path -- ' \n = 1",
]


def test_no_condition_compares_paths_that_are_not_shown(http: Any) -> None:
    for where in COMPARING:
        for answer in (
            http.get("/v1/search", params={"text": "x", "where": where}),
            http.get("/v1/similar", params={"row": 0, "where": where}),
            http.post("/v1/search", json={"row": 0, "where": where}),
            http.post("/v1/search", files={"image": png(1)}, data={"request": json.dumps({"where": where})}),
        ):
            assert "does not show paths" in detail(answer, 403), where


def test_a_condition_that_only_speaks_of_paths_is_taken(http: Any) -> None:
    for where in ("name <> 'path'", "has(meta, 'folder', 'x') OR row = 1", "name = 'x' /* path */ OR row = 0"):
        assert http.get("/v1/search", params={"text": "x", "where": where}).status_code == 200, where


def test_an_error_says_nothing_of_the_servers_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "a b" / "x.clipdex"
    beside = tmp_path / "a b" / "x.clipdex-2" / "p.png"
    hidden = Hidden([index], show_paths=False)
    home = os.path.expanduser("~")
    for said, shown in {
        f"{index} has no item 'z'": "x.clipdex has no item 'z'",
        f"{index}/rows.sqlite: row 3 is damaged": "x.clipdex/rows.sqlite: row 3 is damaged",
        f"this Collection of {index} is closed": "this Collection of x.clipdex is closed",
        f"{beside}: not a picture": "…: not a picture",
        f"write {home}/secret/file.txt, please": "write …, please",
        "width > 1000 AND path GLOB '*/2024/*'": "width > 1000 AND path GLOB '*/2024/*'",
        "half \ud83d of a pair": "half \ufffd of a pair",
    }.items():
        cleaned = hidden.cleaned(said)
        assert str(tmp_path) not in cleaned
        assert cleaned == shown or (said.startswith(str(beside)) and cleaned.endswith("not a picture"))
    for kind in (errors.IndexDamaged, errors.SourceError, errors.ServerUnreachable, errors.IndexLocked):
        sentence = hidden.sentence(kind("/srv/pictures of mine/1.png at 10.0.0.1:8001"))
        assert (
            "srv" not in sentence and "10.0" not in sentence and sentence.endswith("The server's log says more.")
        )
    shown = Hidden([index], show_paths=True).sentence(errors.IndexDamaged(f"{index} is damaged"))
    assert shown == f"{index} is damaged"


def test_every_error_has_a_status_and_its_own_members() -> None:
    made = {
        kind: kind("a sentence")
        for name in errors.__all__
        if (kind := getattr(errors, name)) not in (errors.ImageError, errors.AddFailed, errors.MissingExtra)
    }
    made[errors.ImageError] = errors.ImageError("a sentence", reason="truncated")
    made[errors.AddFailed] = errors.AddFailed("a sentence", {"a": errors.InvalidArgument("why")}, 2)
    made[errors.MissingExtra] = errors.MissingExtra("faiss", "faiss", "this")
    expected = {
        "ItemNotFound": 404,
        "InvalidArgument": 422,
        "ImageError": 422,
        "AddFailed": 422,
        "RequestRefused": 422,
        "FingerprintMismatch": 409,
        "IndexLocked": 503,
        "ServerBusy": 503,
        "ServerUnreachable": 503,
        "Closed": 503,
        "DeadlineExceeded": 504,
        "ServerFault": 502,
        "AccessDenied": 502,
        "IndexDamaged": 500,
        "IndexWriteError": 507,
        "NoLocalFeatures": 409,
        "MissingExtra": 501,
    }
    for kind, error in made.items():
        answer = problem_of(error, request_id="17")
        body = json.loads(bytes(answer.body))
        assert body["type"] == f"urn:clipdex:{kind.__name__}" and body["instance"] == "urn:request:17"
        assert answer.status_code == body["status"] == expected.get(kind.__name__, body["status"]) >= 400
        assert ("retry-after" in answer.headers) == (answer.status_code == 503)
    assert json.loads(bytes(problem_of(made[errors.ImageError]).body))["reason"] == "truncated"
    assert json.loads(bytes(problem_of(made[errors.AddFailed]).body))["failures"] == {"a": "why"}
    assert status_of(Forbidden("no")) == 403


def test_a_fault_of_ours_is_a_problem_without_a_traceback(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(index, fake=False)
    app = create_app(settings)

    @app.get("/v1/fault")
    async def fault() -> None:
        raise RuntimeError("/srv/secret")

    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as http:
        assert "log says more" in detail(http.get("/v1/fault"), 500)
        assert "secret" not in http.get("/v1/fault").text


def test_a_picture_is_bounded_and_strictly_parsed(http: Any) -> None:
    good = base64.b64encode(png(1)).decode()
    for image in (good, f"data:image/png;base64,{good}", f"DATA:;BASE64,{good}", f"data:image/jpeg;base64,{good}"):
        assert http.post("/v1/search", json={"image": image}).status_code == 200, image[:30]
    large = base64.b64encode(b"x" * 20_001).decode()
    for image, words in {
        f"data:text/html;base64,{good}": "data URI of another kind",
        f"data:image/png,{good}": "data URI of another kind",
        "data:" + "x" * 5000: "data URI of another kind",
        f"{good}\n": "not a picture file in base64",
        good[:-1] + " ": "not a picture file in base64",
        good.rstrip("=") + "====": "not a picture file in base64",
        "äöü": "not a picture file in base64",
        "/etc/passwd": "not a picture file in base64",
        "http://127.0.0.1/a.png": "not a picture file in base64",
        large: "larger than 20,000 bytes",
        f"data:image/png;base64,{large}": "larger than 20,000 bytes",
        "data:image/png;base64,": "empty",
        "attached": "expected the same number",
    }.items():
        answers = [http.post("/v1/search", json={"image": image})]
        answers += [http.put("/v1/items/n", json={"image": image})] if image != "attached" else []
        for answer in answers:
            assert words in detail(answer, 422), image[:40]
    assert "larger than" in detail(http.post("/v1/search", files={"image": b"x" * 20_001}), 422)
    assert http.get("/v1/items/n").status_code == 404


def test_a_form_may_mix_its_pictures_with_texts(http: Any) -> None:
    asked = {"parts": [{"image": "attached"}, {"text": "x", "weight": -0.1}, {"image": "attached", "weight": 0.2}]}
    files = [("image", ("1.png", png(100))), ("image", ("2.png", png(3)))]
    found = http.post("/v1/search", files=files, data={"request": json.dumps(asked)}).json()["hits"]
    assert found[0]["id"] == "a"
    alone = http.post("/v1/search", files={"image": png(101)}).json()["hits"]
    assert alone[0]["id"] == "b/c" and alone[0]["score"] > 0.999
    for bad, words in {
        json.dumps({"parts": [{"text": "x"}]}): "expected the same number",
        json.dumps({"text": "x"}): "expected the same number",
        "{": "not JSON",
        "[]": "dictionary",
        '{"top_k": NaN}': "not JSON",
    }.items():
        assert words in detail(http.post("/v1/search", files={"image": png(1)}, data={"request": bad}), 422)
    assert "expected a file" in detail(http.post("/v1/search", data={"image": "x"}, files={"other": b"1"}), 422)


@pytest.mark.slow
def test_a_match_takes_a_form_and_says_which_part_of_which_picture(index: Path, tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="matching needs the extra features")
    from scenes import give_features, scene_png

    from clipdex.web.schemas.matches import MatchOut

    (tmp_path / "scenes").mkdir()
    for n in range(2):
        (tmp_path / "scenes" / f"{n}.png").write_bytes(scene_png(n))
    with clipdex.Client(FakeTransport()) as client:
        clipdex.index_pictures(client, tmp_path / "scenes", index, workers=1)
    give_features(index, scene_png(0), scene_png(1))
    crop = {"image": ("crop.png", scene_png(1, (80, 60, 240, 200)))}
    with answering(settings_of(index, max_upload_bytes=300_000)) as http:
        assert http.get("/v1/info").json()["with_features"] == 2
        (found,) = http.post("/v1/match", files=crop).json()["matches"]
        assert (found["name"], found["path"], found["id"], found["width"]) == ("1.png", None, None, 320)
        assert found["thumbnail"].startswith(f"/v1/pictures/{found['row']}/thumbnail?v={found['version']}")
        assert set(found) == set(MatchOut.model_fields)
        assert found["region_fractions"][2] == pytest.approx([240 / 320, 200 / 240], abs=0.01)
        for options in ({"where": "width < 300"}, {"min_inliers": found["inliers"] + 1}):
            form = {"request": json.dumps(options)}
            assert http.post("/v1/match", files=crop, data=form).json()["matches"] == [], options
        for wrong, words in {
            '{"top_k": 101}': "less than or equal to 100",
            '{"min_inliers": 3}': "greater than or equal to 4",
            '{"group": true}': "Extra inputs",
            '{"image": "AAAA"}': "give one of them",
            "{": "not JSON",
        }.items():
            assert words in detail(http.post("/v1/match", files=crop, data={"request": wrong}), 422), wrong
        assert "larger than 300,000 bytes" in detail(http.post("/v1/match", files={"image": b"x" * 300_001}), 422)
        two = [("image", ("1.png", b"1")), ("image", ("2.png", b"2"))]
        assert "2 files named image; expected a picture" in detail(http.post("/v1/match", files=two), 422)
        for json_body in ({}, {"image": "attached"}):
            assert "expected a picture file" in detail(http.post("/v1/match", json=json_body), 422)
        answer = http.post("/v1/match", files=crop, data={"request": json.dumps({"where": "path LIKE '%1%'"})})
        assert "--show-paths" in detail(answer, 403)
        answer = http.post("/v1/match", files={"image": b"no picture"})
        assert answer.json()["type"] == "urn:clipdex:ImageError" and answer.json()["reason"]


def test_without_local_features_a_match_says_what_to_do_and_no_path(http: Any, index: Path) -> None:
    answer = http.post("/v1/match", files={"image": png(1)})
    told = detail(answer, 409)
    assert told == "x.clipdex has no local features; make them with  clipdex features build  first"
    assert answer.json()["type"] == "urn:clipdex:NoLocalFeatures"
    assert http.get("/v1/info").json()["with_features"] == 0


def test_a_body_is_of_a_type_that_the_route_takes(http: Any) -> None:
    posted = ("search", "match", "items", "items/remove")
    for method, path in (*(("POST", each) for each in posted), ("PATCH", "items/a")):
        answer = http.request(method, f"/v1/{path}", content=b"{}", headers={"content-type": "text/plain"})
        assert "expected application/json" in detail(answer, 415)
    answer = http.put("/v1/items/n", content=png(1), headers={"content-type": "text/html"})
    assert "expected application/json or a picture" in detail(answer, 415)


WRONG = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"text": "x", "text": "y"}',
    b'{"text": "x", "top_k": 1e999}',
    b'{"text": "x", "min_score": NaN}',
    b'{"text": "\\ud83d"}',
    b'{"text": "\xff"}',
    b'{"text": "x", "other": 1}',
    b'{"text": "x", "top_k": true}',
    b'{"text": "x", "top_k": 1001}',
    b'{"text": "x", "offset": 1000001}',
    b'{"text": "x", "params": {"a": [1]}, "where": "1"}',
    b'{"vector": []}',
    b'{"vector": ["1"]}',
    b'{"vector": [1e999]}',
    b'{"parts": []}',
    b'{"parts": [{}]}',
    b'{"parts": [{"text": "x", "weight": 0}]}',
    b'{"row": -1}',
    b'{"row": 1.5}',
    b"[" * 100_000,
]


def test_a_wrong_search_is_one_sentence(http: Any) -> None:
    for body in WRONG:
        answer = http.post("/v1/search", content=body, headers={"content-type": "application/json"})
        assert answer.json()["type"] == "urn:clipdex:InvalidArgument", body[:80]
        detail(answer, 422)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "/v1/search?txt=a",
            "unknown parameter 'txt'; expected group, index, min_score, offset, text, top_k, where",
        ),
        ("/v1/search?text=a&topk=3", "unknown parameter 'topk'"),
        ("/v1/search?text=a&text=b", "parameter 'text' 2 times; expected it once"),
        ("/v1/info?index=x&index=x", "parameter 'index' 2 times"),
        ("/v1/models?index=x", "unknown parameter 'index'; expected none"),
        ("/v1/pictures/0?width=3", "unknown parameter 'width'; expected index, v"),
    ],
    ids=["misspelt", "unknown", "twice", "index twice", "none expected", "another route's"],
)
def test_a_parameter_is_known_and_given_once(http: Any, address: str, said: str) -> None:
    assert said in detail(http.get(address), 400)


def test_a_parameter_of_a_request_with_a_body_is_known_too(http: Any) -> None:
    assert "'top_k'" in detail(http.post("/v1/search?top_k=3", json={"text": "a"}), 400)
    answer = http.post("/v1/embeddings?dimensions=3", json={"input": "a", "model": "clipdex"})
    assert "'dimensions'" in answer.json()["error"]["message"]
    assert "'meta'" in detail(http.put("/v1/items/n?meta=1", content=png(5)), 400)


def test_probes_and_the_page_take_any_parameter(http: Any) -> None:
    assert [http.get(each).status_code for each in ("/healthz?a=1", "/readyz?a=1", "/metrics?a=1", "/?a=1")] == [
        200
    ] * 4


def test_a_picture_goes_in_as_a_body_with_its_metadata(http: Any) -> None:
    answer = http.put("/v1/items/n%2F1", content=png(5), params={"metadata": '{"n": 1}'})
    assert answer.json() == {"added": 1}
    assert http.get("/v1/items/n/1").json()["metadata"] == {"n": 1}
    detail(http.put("/v1/items/n", content=png(5), params={"metadata": "[1]"}), 422)
    detail(http.put("/v1/items/n", content=b""), 422)
    assert http.patch("/v1/items/n/1", json={"metadata": {"m": 2}}).json()["metadata"] == {"m": 2}
    assert http.delete("/v1/items/n/1").status_code == 204
    detail(http.delete("/v1/items/n/1"), 404)


def test_the_pages_of_the_list_end(http: Any) -> None:
    rows, after = [], -1
    while after is not None:
        page = http.get("/v1/items", params={"after": after, "limit": 5}).json()
        rows += [each["row"] for each in page["items"]]
        after = page["next"]
    assert rows == list(range(14))
    pages = []
    offset: int | None = 0
    while offset is not None:
        found = http.get("/v1/search", params={"text": "x", "top_k": 7, "offset": offset}).json()
        pages.append(len(found["hits"]))
        offset = found["next_offset"]
    assert pages == [7, 7]


def test_a_row_with_the_version_of_another_picture_is_not_found(http: Any) -> None:
    version = http.get("/v1/pictures/3").json()["version"]
    assert http.get("/v1/pictures/3", params={"v": version}).status_code == 200
    assert "another picture" in detail(http.get("/v1/pictures/4", params={"v": version}), 404)
    for row in ("99", "-1", str(1 << 70)):
        detail(http.get(f"/v1/pictures/{row}"), 404)
    detail(http.get("/v1/pictures/x"), 422)


def test_several_indexes_are_named(index: Path, tmp_path: Path) -> None:
    with clipdex.Client(FakeTransport()) as client, Collection.open(tmp_path / "y.clipdex", client=client) as pets:
        pets.add(Item("only", noise(1)))
    with answering(settings_of(index, tmp_path / "y.clipdex")) as http:
        assert detail(http.get("/v1/search", params={"text": "x"}), 422).endswith("give index=, one of x, y")
        detail(http.get("/v1/search", params={"text": "x", "index": "z"}), 422)
        (hit,) = http.get("/v1/search", params={"text": "x", "index": "y"}).json()["hits"]
        assert hit["id"] == "only" and hit["thumbnail"].endswith(f"?v={hit['version']}&index=y")
        assert http.get("/v1/info", params={"index": "y"}).json()["indexes"] == ["x", "y"]


def test_the_application_may_be_a_part_of_another(index: Path) -> None:
    from contextlib import asynccontextmanager

    from fastapi import FastAPI

    part = create_app(WebSettings(indexes=(index,)))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        async with part.router.lifespan_context(part):
            yield

    whole = FastAPI(lifespan=lifespan)
    whole.mount("/pictures", part)
    with TestClient(whole, base_url="http://127.0.0.1") as http:
        hits = http.get("/pictures/v1/similar", params={"row": 0}).json()["hits"]
        assert hits[0]["thumbnail"].startswith("/pictures/v1/pictures/")


def test_the_document_names_every_status_as_a_problem(http: Any) -> None:
    document = http.get("/v1/openapi.json").json()
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"], name
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            common = {"401", "403", "422", "500", "503"} if path.startswith("/v1/") else {"401", "403", "500"}
            assert common <= operation["responses"].keys(), (method, path)
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == [problems.CONTENT_TYPE], (method, path, status)
    assert document["components"]["schemas"]["SearchIn"]["examples"]


def test_names_that_are_no_unicode_are_answered(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise(1).save(folder / "a.png")
    (folder / "a.png").rename(os.fsdecode(bytes(folder) + b"/\xff<b>.png"))
    with clipdex.Client(FakeTransport()) as client:
        clipdex.index_pictures(client, folder, tmp_path / "x.clipdex", workers=1)
    with answering(settings_of(tmp_path / "x.clipdex", show_paths=True)) as http:
        (hit,) = http.get("/v1/search", params={"text": "x"}).json()["hits"]
        assert hit["name"] == "\ufffd<b>.png"


def test_an_index_that_was_moved_away_is_not_there_until_it_is_back(http: Any, index: Path) -> None:
    away = index.with_name("away")
    assert http.get("/v1/similar", params={"row": 1}).status_code == 200
    index.rename(away)
    for ask in ("/v1/similar?row=1", "/v1/search?text=x", "/v1/pictures/1", "/v1/items/a", "/v1/columns"):
        answer = http.get(ask)
        assert (answer.status_code, answer.json()["title"]) == (503, "Index not found"), answer.text
        assert "Retry-After" in answer.headers
    away.rename(index)
    assert http.get("/v1/similar", params={"row": 1}).status_code == 200


def test_a_condition_may_take_a_quarter_of_a_request_s_time(index: Path) -> None:
    settings = settings_of(index, request_timeout_s=20.0)
    with answering(settings) as client:
        served = client.app.state.served
        assert served.named(None).collection.collection._core.index.filter_timeout_s == 5.0
    with Collection.open(index, read_only=True, filter_timeout_s=1e-9) as pets:
        hard = " AND ".join(f"length(path) > {i} - 1000" for i in range(150))
        with pytest.raises(errors.InvalidArgument, match="longer than 1e-09 s"):
            pets.search(vector=pets.vector(0), where=hard)
