"""Folders of a web server as sources: index pages as nginx, Apache and Python write them."""

from __future__ import annotations

import html
import io
import os
import tarfile
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from conftest import png

from clipdex.base.errors import SourceError
from clipdex.base.object_paths import object_meant
from clipdex.sources import object_file, web_server
from clipdex.sources.index_page import links_of
from clipdex.sources.locations import Elsewhere, located
from clipdex.sources.opening import member_bytes, open_source

pytest.importorskip("obstore")
pytestmark = pytest.mark.slow


class Site(ThreadingHTTPServer):
    """Files by path. refused: path -> the status of every answer. etags: "", strong, weak."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.times: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.extra: dict[str, str] = {}  # more HTML of a page
        self.etags = "strong"
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Site
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        site, path = self.server, unquote(urlsplit(self.path).path, errors="surrogateescape").lstrip("/")
        site.asked.append((self.command, path))
        if (status := site.refused.get(path)) is not None:
            self.send(status, b"", {"Location": "https://elsewhere.test/"} if status < 400 else {})
        elif path in site.files:
            self.file(path)
        elif path == "" or path.endswith("/"):
            self.page(path)
        else:
            self.send(404, b"")

    def file(self, path: str) -> None:
        site, data = self.server, self.server.files[path]
        headers = {"Last-Modified": formatdate(site.times.get(path, 1_700_000_000), usegmt=True)}
        tag = f'"{hash(data) & 0xFFFFFF:x}"'
        if site.etags:
            headers["ETag"] = tag if site.etags == "strong" else f"W/{tag}"
        asked = self.headers.get("If-Match")
        if asked is not None and (asked != tag or site.etags == "weak"):
            self.send(412, b"")
            return
        status = 200
        if spanned := self.headers.get("Range"):
            start, end = spanned.removeprefix("bytes=").split("-")
            headers["Content-Range"] = f"bytes {start}-{min(int(end), len(data) - 1)}/{len(data)}"
            data, status = data[int(start) : int(end) + 1], 206
        self.send(status, data, headers)

    def page(self, path: str) -> None:
        """A page without Content-Length, as nginx sends it."""
        names = {name[len(path) :].partition("/") for name in self.server.files if name.startswith(path)}
        inside = sorted({first + slash for first, slash, _ in names})
        if not inside:
            self.send(404, b"")
            return
        links = "".join(
            f'<a href="{html.escape(quote(name, errors="surrogateescape"))}">{html.escape(name)}</a> 29-Nov 7K\n'
            for name in inside
        )
        links = f'<a href="../">../</a><a href="?C=N;O=D">Name</a>{links}{self.server.extra.get(path, "")}'
        page = f"<html><body><h1>Index of /{path}</h1><pre>{links}</pre></body></html>".encode("utf-8", "replace")
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(page), page))

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(object_file, "_BLOCKS", object_file._Blocks())
    monkeypatch.setattr(web_server, "_PAUSE_S", 0.01)
    web_server.open_web.cache_clear()
    with Site() as site:
        Thread(target=site.serve_forever, args=(0.02,), daemon=True).start()
        site.files = {f"a/{number}.png": png(number) for number in range(5)}
        yield site
        site.shutdown()


def paths(source):
    return [os.fsdecode(file.path) for file in open_source(source).files(lambda failure: None)]


@pytest.mark.parametrize("etags", ["strong", "weak", ""])
def test_a_folder_of_a_web_server_is_indexed_and_kept_up_to_date(site, update, etags):
    site.etags = etags
    report, _ = update(f"{site.url}/a/")
    assert (report.indexed, report.failed) == (5, 0)
    site.files |= {"a/1.png": png(70), "a/more/ä 50%25 [1].png": png(71)}
    site.times["a/1.png"] = 1_800_000_000
    del site.files["a/2.png"]
    report, embedded = update(f"{site.url}/a")
    assert (report.unchanged, report.indexed, report.changed, report.removed) == (3, 2, 1, 1)
    assert embedded == 2
    report, embedded = update(f"{site.url}/")
    assert (report.unchanged, report.indexed, embedded) == (5, 0, 0)
    assert member_bytes(f"{site.url}/a/more/ä 50%25 [1].png") == png(71)


def test_the_paths_are_decoded_urls_in_the_order_of_their_bytes(site):
    site.files = {"b.png": b"", "a/z.png": b"", "a.png": b"", "a b/\udcff.png": b"", "é/ü.png": b""}
    assert paths(site.url) == [f"{site.url}/{name}" for name in sorted(site.files, key=os.fsencode)]
    assert paths(f"{site.url}/%C3%A9") == paths(f"{site.url}/é") == [f"{site.url}/é/ü.png"]


def test_tars_tables_and_globs_are_read(site, update):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for seed in range(10, 20):
            info = tarfile.TarInfo(f"{seed}.png")
            info.size = len(png(seed))
            tar.addfile(info, io.BytesIO(png(seed)))
    site.files |= {"t/0.tar": made.getvalue(), "l.csv": b"path,caption\na/0.png,zero\na/none.png,\n"}
    report, _ = update(f"{site.url}/t")
    assert (report.indexed, report.failed) == (10, 0)
    report, _ = update(f"{site.url}/l.csv")
    assert (report.indexed, report.failed) == (1, 1)
    report, _ = update(f"{site.url}/t/*.tar")
    assert report.unchanged == 10
    assert paths(f"{site.url}/a/[13].png") == [f"{site.url}/a/1.png", f"{site.url}/a/3.png"]


def test_links_to_other_places_are_not_followed(site):
    other = f"http://localhost:{site.server_port}/a/0.png"
    site.extra["a/"] = "".join(
        f"<a href='{link}'>x</a>"
        for link in (
            *(
                "/a/0.png",
                "/b/0.png",
                "../b/0.png",
                "//evil.test/a/7.png",
                other,
                "mailto:a@b.c",
                "http://[/",
                "#x",
            ),
            *(
                "7.png?token=x",
                ".",
                "..",
                "./",
                "a//b.png",
                "x/y.png",
                "",
                "%2e%2e/",
                "%2e%2e%2fc.png",
                "a%00.png",
            ),
        )
    )
    assert paths(f"{site.url}/a") == [f"{site.url}/a/{number}.png" for number in range(5)]
    assert {path for _, path in site.asked} == {"a/", *(f"a/{number}.png" for number in range(5))}


def test_a_name_that_is_not_text_is_a_failure(site, update):
    site.files["a/\udcff.png"] = png(9)
    report, _ = update(f"{site.url}/a/")
    assert (report.indexed, report.failed) == (5, 1)


def test_a_file_that_cannot_be_examined_fails_alone_and_a_link_to_nothing_is_none(site, update):
    site.refused = {"a/1.png": 403}
    site.extra["a/"] = "<a href=none.png>x</a>"
    report, _ = update(f"{site.url}/a/")
    assert (report.indexed, report.failed) == (4, 1)
    site.refused = {}
    report, _ = update(f"{site.url}/a/", retry_failures=True)
    assert (report.indexed, report.failed) == (1, 0)


def test_a_page_that_is_refused_ends_the_run_and_nothing_is_forgotten(site, update):
    site.files["a/b/9.png"] = png(9)
    update(f"{site.url}/a")
    site.refused = {"a/b/": 503}
    with pytest.raises(SourceError, match=r"/a/b/: the server refuses the page \(status 503\)"):
        update(f"{site.url}/a")
    site.refused = {}
    report, embedded = update(f"{site.url}/a")
    assert (report.unchanged, report.removed, embedded) == (6, 0, 0)


def test_a_page_that_breaks_off_ends_the_run_and_nothing_is_forgotten(site, update, monkeypatch):
    """Its length is stated, and its connection ends before: what it did not list is not gone."""
    update(f"{site.url}/a")
    whole = b"".join(b"<a href='%d.png'>x</a>\n" % number for number in range(5))

    def broken(handler: Any, path: str) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.send_header("Content-Length", str(len(whole)))
        handler.end_headers()
        handler.wfile.write(whole[: len(whole) // 2])
        handler.close_connection = True

    with monkeypatch.context() as for_now:
        for_now.setattr(_Handler, "page", broken)
        with pytest.raises(SourceError, match="the server cannot be reached"):
            update(f"{site.url}/a")
    report, embedded = update(f"{site.url}/a")
    assert (report.unchanged, report.removed, embedded) == (5, 0, 0)


def test_what_cannot_be_listed_is_one_sentence(site, run, tmp_path):
    for status, words in ((301, "sends on to https://elsewhere.test/"), (403, r"refuses the page (status 403)")):
        site.refused = {"a/": status}
        code, out, err = run("index", f"{site.url}/a", "-i", tmp_path / "x", "--dry-run")
        assert (code, out, len(err.splitlines()), words in err) == (1, "", 1, True), err
    for place, words in {
        f"{site.url}/?C=N": "has a query",
        "http://a:b@127.0.0.1/x/": "has a name or password in it",
        "https://": "names no web server",
        "https://:x/": "is no address of a web server",
        "http://127.0.0.1:9/": "the server cannot be reached",
    }.items():
        code, out, err = run("index", place, "-i", tmp_path / "x", "--dry-run")
        assert (code, out, len(err.splitlines()), words in err) == (1, "", 1, True), err
        assert "a:b" not in err
    code, _, err = run("push-index", tmp_path / "x", f"{site.url}/a")
    assert (code, len(err.splitlines())) == (1, 1), err


def test_folders_that_lead_in_circles_end(site, monkeypatch):
    monkeypatch.setattr(_Handler, "page", lambda self, path: _circle(self))
    with pytest.raises(SourceError, match="65th folder within a folder"):
        paths(site.url)


def _circle(handler: Any) -> None:
    handler.send(200, b"<a href='again/'>again</a>", {"Content-Type": "text/html"})


def test_urls_of_lists_and_tables_are_still_not_downloaded():
    assert isinstance(located(b"https://h.test/a.png", b"/x"), Elsewhere)
    assert isinstance(located(b"http://h.test/a.png", b"https://h.test/b"), Elsewhere)
    assert located(b"../b.png", b"https://h.test/a") == b"https://h.test/b.png"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("https:/H.test/a%20b.png", "https://h.test/a b.png"),
        ("HTTPS://h.test/A b%20.png", "https://h.test/A b%20.png"),
        ("https://h.test/100%.png", "https://h.test/100%.png"),
        ("https://h.test/%C3%A9", "https://h.test/é"),
        ("s3://b/a%20b.png", "s3://b/a%20b.png"),
    ],
)
def test_an_address_may_be_encoded_or_not(given, meant):
    assert object_meant(given) == meant


def test_the_links_of_a_page():
    page = "<A HREF=a.png>x</A><a href=' b.png '><a href=\"c&amp;d.png\"><a name=x><link href=e><a href>"
    assert links_of(page) == ["a.png", "b.png", "c&d.png"]
    assert links_of("<a href='a.png") == []
