"""The page as the server answers it: what it shows, what it escapes, how large it is, and how files are kept."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from conftest import unit_vectors
from drawn_index import drawn_index
from starlette.datastructures import QueryParams
from web_server import answering, settings_of

import clipdex
from clipdex.web.page.asked import Asked
from clipdex.web.page.assets import assets, folder
from clipdex.wire import FakeTransport

EVIL = "\"><img src=x onerror=alert(1)>'<script>alert(2)</script>{{ 7*7 }}</textarea>.jpg"


class Page(HTMLParser):
    """The elements of a page, and the texts between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str, name: str = "", value: str = "") -> list[dict[str, str | None]]:
        """The attributes of every element of a tag, with an attribute that has a word."""
        return [
            has
            for found, has in self.elements
            if found == tag and (not name or value in (has.get(name) or "").split())
        ]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures, the first of which has a name that is a page of its own."""
    paths = [b"/p/folder/%03d.jpg" % i for i in range(40)]
    paths[0] = b"/p/" + EVIL.replace("/", "\u2215").encode()
    metadata = [json.dumps({"caption": EVIL})] * 40
    card = clipdex.Client(FakeTransport()).card
    vectors = unit_vectors(40, card.embedding_dim, seed=3)
    made = tmp_path_factory.mktemp("page") / "pictures.clipdex"
    return drawn_index(made, vectors=vectors, fingerprint=card.fingerprint, path=paths, metadata=metadata)


@pytest.fixture(scope="module")
def site(index: Path) -> Iterator[Any]:
    with answering(settings_of(index)) as client:
        yield client


def pictures_of(page: Page) -> list[str]:
    return [image["alt"] or "" for image in page.all("img", "loading", "lazy") if image.get("src")]


def test_the_page_shows_the_pictures_of_the_index_before_any_script_runs(site: Any) -> None:
    answer = site.get("/")
    page = Page(answer.text)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert pictures_of(page)[1:] == [f"{i:03}.jpg" for i in range(1, 24)]
    assert "40 pictures" in page.texts
    (more,) = page.all("a", "id", "more")
    assert pictures_of(Page(site.get(more["href"]).text)) == [f"{i:03}.jpg" for i in range(24, 40)]


def test_a_query_in_the_address_is_answered_as_the_api_answers_it(site: Any) -> None:
    page = Page(site.get("/", params={"text": "a red heart"}).text)
    hits = site.post("/v1/search", json={"text": "a red heart", "top_k": 24, "group": True}).json()["hits"]
    assert pictures_of(page) == [hit["name"] for hit in hits]
    assert [f"{hit['score']:.3f}" for hit in hits] == [
        each for each in page.texts if re.fullmatch(r"-?\d\.\d{3}", each)
    ]
    assert page.all("input", "id", "text")[0]["value"] == "a red heart"
    (more,) = page.all("a", "id", "more")
    rest = Page(site.get(more["href"]).text)
    assert len(set(pictures_of(page) + pictures_of(rest))) == 40


def test_the_form_works_without_scripts(site: Any) -> None:
    page = Page(site.get("/?where=width+%3E+100&part=-0.5~text~people").text)
    (form,) = page.all("form", "id", "search")
    assert (form["action"], form["method"]) == ("/", "get")
    fields = {(each["name"], each["value"]) for each in page.all("input", "type", "hidden")}
    assert fields == {("where", "width > 100"), ("part", "-0.5~text~people")}


def test_filters_minus_parts_and_pages_of_an_address_hold_on_the_server(site: Any) -> None:
    words = {"text": "a heart", "part": ["-0.5~text~red", "0.5~row~3"], "where": ["width > 100", "height = 20"]}
    page = Page(site.get("/", params=words).text)
    body = {
        "parts": [{"text": "a heart"}, {"text": "red", "weight": -0.5}, {"row": 3, "weight": 0.5}],
        "where": "(width > 100) AND (height = 20)",
        "top_k": 24,
        "group": True,
    }
    hits = site.post("/v1/search", json=body).json()["hits"]
    assert pictures_of(page) == [hit["name"] for hit in hits]
    assert all(hit["width"] > 100 for hit in hits)


def test_every_tile_links_to_more_and_less_like_it(site: Any) -> None:
    page = Page(site.get("/").text)
    more, less = (page.all("a", "class", each)[1]["href"] for each in ("more", "less"))
    asked = [Asked.of(QueryParams(parse_qsl(urlsplit(each or "").query))) for each in (more, less)]
    assert [(part.kind, part.value[:2], part.weight) for each in asked for part in each.parts] == [
        ("row", "1.", 1.0),
        ("row", "1.", -0.5),
    ]
    like = Page(site.get(more).text)
    assert "001.jpg" not in pictures_of(like)
    assert len(pictures_of(like)) == 24


def test_names_queries_and_filters_that_are_markup_are_shown_as_text(site: Any) -> None:
    plain = {tag for tag, _ in Page(site.get("/").text).elements}
    for words in (
        {},
        {"text": EVIL},
        {"part": f"1~text~{EVIL}"},
        {"where": EVIL},
        {"text": "x", "where": EVIL},
        {"index": EVIL},
        {"text": "x", "part": f"1~id~{EVIL}"},
        {"view": EVIL, "show": EVIL, "min_score": EVIL, "offset": EVIL},
    ):
        text = site.get("/", params=words).text
        page = Page(text)
        assert not [has for _, has in page.elements if any(name.startswith("on") for name in has)], words
        assert {tag for tag, _ in page.elements} <= plain | {"button"}, words
        assert "alert(2)</script>" not in text, words
        assert "49" not in page.texts, words
    page = Page(site.get("/", params={"text": EVIL}).text)
    assert page.all("input", "id", "text")[0]["value"] == EVIL
    assert EVIL.replace("/", "\u2215") in pictures_of(page) + pictures_of(Page(site.get("/").text))


def test_there_is_no_script_style_or_handler_in_the_markup(site: Any) -> None:
    page = Page(site.get("/?text=x").text)
    scripts = page.all("script")
    assert len(scripts) == 2
    assert all(each["src"] and each["src"].startswith("/static/") for each in scripts)
    assert not page.all("style")
    assert not [has for _, has in page.elements if "style" in has]
    elsewhere = [has for _, has in page.elements for name in ("src", "href") if "//" in (has.get(name) or "")]
    assert not elsewhere


def test_page_scripts_and_style_are_under_60_kb_in_all(site: Any) -> None:
    page = site.get("/?text=a+heart")
    first = {"page.css", "theme.js", "icon.svg"} | imported("main.js")
    assert not first & {"viewer.js", "panels.js", "filters.js"}  # loaded when they are needed
    sent = [len(site.get(f"{folder()}/{name}").content) for name in first]
    zipped = [len(assets()[name].gzipped) for name in first]
    assert sum(sent) > sum(zipped) > 10_000
    assert len(page.content) + sum(zipped) < 60_000


def imported(name: str) -> set[str]:
    """A module and those that it cannot start without."""
    found = re.findall(r'from "\./([a-z]+\.js)"', assets()[name].data.decode())
    return {name}.union(*(imported(each) for each in found if each != name))


def test_every_module_that_is_imported_is_served(site: Any) -> None:
    for name, asset in assets().items():
        wanted = re.findall(r'(?:from "\./|lazily\(")([a-z]+)', asset.data.decode())
        assert {f"{each}.js" for each in wanted} <= set(assets()), name


def test_files_are_kept_for_ever_under_the_name_of_their_version(site: Any) -> None:
    page = Page(site.get("/").text)
    (style,) = page.all("link", "rel", "stylesheet")
    answer = site.get(style["href"], headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.content == assets()["page.css"].data == gzip.decompress(assets()["page.css"].gzipped)
    again = site.get(style["href"], headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = site.get(style["href"], headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == answer.content
    assert site.get("/static/page.css").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["0123456789ab/page.css", "nothing.js", "../first.py", "..%2f..%2fapp.py", "", "page.css/x"]
)
def test_nothing_else_is_served_as_a_file(site: Any, path: str) -> None:
    answer = site.get(f"/static/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_head_answers_like_get_without_a_body(site: Any) -> None:
    for path in ("/", f"{folder()}/main.js", "/?text=a"):
        got, head = site.get(path), site.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"]


def test_what_is_wrong_is_said_on_the_page_with_its_status(site: Any) -> None:
    wrong = site.get("/?text=x&where=nonsense+%3D+1")
    assert wrong.status_code == 422
    assert "no such column: nonsense" in wrong.text
    hidden = site.get("/?text=x&where=path+LIKE+%27%25%27")
    assert hidden.status_code == 403
    gone = site.get("/?part=1~row~3.0000000000000bad")
    assert gone.status_code == 422
    assert "no longer in the index" in gone.text
    assert site.get("/?index=other").status_code == 422


def test_the_page_never_tells_where_the_index_is(site: Any, index: Path) -> None:
    for path in ("/", "/?index=x", "/?text=x&where=nonsense", "/?part=1~id~none", "/?part=1~row~999999"):
        assert str(index.parent) not in site.get(path).text


def test_without_an_inference_server_the_pictures_are_shown_and_texts_refused(index: Path) -> None:
    with answering(settings_of(index, fake=False)) as site:
        assert len(pictures_of(Page(site.get("/").text))) == 24
        assert len(pictures_of(Page(site.get("/?part=1~row~3").text))) == 24
        refused = site.get("/?text=a")
        assert refused.status_code == 422
        assert "--server" in refused.text


def test_several_indexes_can_be_chosen_from(index: Path, tmp_path: Path) -> None:
    vectors = np.asarray(unit_vectors(3, 8, seed=1))
    other = drawn_index(tmp_path / "a other.clipdex", vectors=vectors)
    with answering(settings_of(index, other, fake=False)) as site:
        page = Page(site.get("/?index=pictures").text)
        assert [has for has in page.all("option") if "selected" in has]
        assert len(pictures_of(page)) == 24
        assert len(pictures_of(Page(site.get("/").text))) == 3
        assert "index=pictures" in (page.all("a", "class", "more")[0]["href"] or "")


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/?text=a+cat&part=-0.5~text~a~b&part=1~row~17.9a0b1c2d3e4f5061&part=1~id~user%2F1",
        "/?index=x&text=%26&where=width+%3E+1&where=name+%3D+%27%25%27&min_score=0.25&group=0&offset=24",
    ],
)
def test_an_address_says_the_same_after_it_is_read(address: str) -> None:
    assert Asked.of(QueryParams(urlsplit(address).query)).address() == address


@pytest.mark.parametrize("part", ["1~shape~x", "nan~text~x", "~text~x", "0~text~x", "1~text~", "1e9~text~x", "x"])
def test_parts_that_mean_nothing_are_passed_over(part: str) -> None:
    assert Asked.of(QueryParams([("part", part)])).parts == ()
