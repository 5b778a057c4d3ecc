"""Datasets of the Hugging Face hub, read like buckets, from a stub that speaks the hub's tree API."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from conftest import png

from clipdex.base.errors import SourceError
from clipdex.sources import hub_dataset, object_file
from clipdex.sources.locations import Elsewhere, located
from clipdex.sources.opening import member_bytes, open_source

constants: Any = pytest.importorskip("huggingface_hub.constants")
pytestmark = pytest.mark.slow

ROOT = "hf://datasets/owner/name"


class Hub(ThreadingHTTPServer):
    """One dataset, owner/name. commits: the files of each; the last is `main`. status, code: of every answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: list[dict[str, bytes]] = [{}]
        self.status = 200
        self.code = ""
        self.asked: list[str] = []

    def commit(self, **changes: bytes | None) -> None:
        files = {**self.commits[-1], **changes}
        self.commits.append({name: data for name, data in files.items() if data is not None})


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        hub.asked.append(path)
        if hub.status != 200:
            self.send(hub.status, b"{}", {"X-Error-Code": hub.code})
            return
        words = path.strip("/").split("/")
        if words[:4] == ["api", "datasets", "owner", "name"]:
            self.api(words[4:], body)
        elif words[:4] == ["datasets", "owner", "name", "resolve"]:
            data = self.files(words[4]).get("/".join(words[5:]))
            if data is None:
                self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                return
            start, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            self.send(206, data[int(start) : int(last) + 1])
        else:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_POST = do_GET

    def files(self, revision: str) -> dict[str, bytes]:
        return self.server.commits[-1 if revision == "main" else int(revision, 16)]

    def api(self, words: list[str], body: bytes) -> None:
        now = len(self.server.commits) - 1
        if not words or words[0] == "revision":
            if words[1:] == ["none"]:
                self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            at = int(words[1], 16) if words[1:] and words[1] != "main" else now
            self.send(200, json.dumps({"id": "owner/name", "sha": f"{at:040x}"}).encode())
            return
        files = self.files(words[1])
        if words[0] == "tree":
            below = "/".join([*words[2:], ""]) if words[2:] else ""
            found = [name for name in sorted(files) if name.startswith(below)]
            if below and not found:
                self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                return
        else:
            asked = body.decode()
            wanted = json.loads(asked)["paths"] if asked.startswith("{") else _form(asked)
            found = [name for name in wanted if name in files]
        entries = [
            {
                "type": "file",
                "path": name,
                "size": len(files[name]),
                "oid": hashlib.sha1(files[name]).hexdigest(),
            }
            for name in found
        ]
        self.send(200, json.dumps([{"type": "directory", "path": "a", "oid": "0"}, *entries]).encode())

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _form(text: str) -> list[str]:
    from urllib.parse import parse_qs

    return parse_qs(text)["paths"]


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(object_file, "_BLOCKS", object_file._Blocks())
    monkeypatch.setattr(hub_dataset, "_COMMIT_S", 0.0)
    hub_dataset.open_dataset.cache_clear()
    with Hub() as hub:
        Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub.commit(**{f"a/{number}.png": png(number) for number in range(5)})
        yield hub
        hub.shutdown()


def test_a_folder_of_a_dataset_is_indexed_and_kept_up_to_date(hub, update):
    report, _ = update(f"{ROOT}/a")
    assert (report.indexed, report.failed) == (5, 0)
    hub.commit(**{"a/1.png": png(70), "a/ä ö.png": png(71), "a/2.png": None})
    report, embedded = update(f"{ROOT}/a")
    assert (report.unchanged, report.indexed, report.changed, report.removed) == (3, 2, 1, 1)
    assert embedded == 2
    report, embedded = update(ROOT)
    assert (report.unchanged, report.indexed) == (5, 0)
    assert member_bytes(f"{ROOT}/a/1.png") == png(70)


def test_tars_and_tables_of_a_dataset_are_read(hub, update):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for seed in range(10, 20):
            info = tarfile.TarInfo(f"{seed}.png")
            info.size = len(png(seed))
            tar.addfile(info, io.BytesIO(png(seed)))
    hub.commit(**{"t/0.tar": made.getvalue(), "l.csv": b"path,caption\na/0.png,zero\na/none.png,\n"})
    report, _ = update(f"{ROOT}/t")
    assert (report.indexed, report.failed) == (10, 0)
    report, _ = update(f"{ROOT}/l.csv")
    assert (report.indexed, report.failed) == (1, 1)
    report, _ = update(f"{ROOT}/t/*.tar")
    assert report.unchanged == 10


def test_a_commit_in_mid_run_changes_nothing_of_what_was_listed(hub):
    files = list(open_source(f"{ROOT}/a").files(lambda failure: None))
    hub.commit(**{"a/0.png": png(90), "a/1.png": None})
    for file, seed in zip(files, range(5), strict=True):
        member: Any = file.member
        assert member.read(1 << 20) == png(seed)


def test_a_revision_is_read_as_it_was(hub):
    hub.commit(**{"a/9.png": png(9)})
    old = open_source(f"{ROOT}@{1:040x}/a")
    assert len(list(old.files(lambda failure: None))) == 5


REFUSED = {
    (401, "RepoNotFound"): "there is no such dataset, or it is private",
    (403, "GatedRepo"): "the dataset is gated",
    (404, "RevisionNotFound"): "the dataset has no revision main",
    (400, ""): r"the hub refuses the request \(status 400\)",
}


@pytest.mark.parametrize(("refusal", "words"), REFUSED.items(), ids=lambda each: str(each[0])[:3])
def test_a_hub_that_refuses_is_one_sentence(hub, run, tmp_path, refusal, words):
    hub.status, hub.code = refusal
    with pytest.raises(SourceError, match=f"^{ROOT}: {words}"):
        list(open_source(f"{ROOT}/a").files(lambda failure: None))
    status, out, err = run("index", f"{ROOT}/a", "-i", tmp_path / "x", "--dry-run")
    assert (status, out, len(err.splitlines())) == (1, "", 1), err


def test_a_hub_that_is_not_there_and_a_url_that_names_no_dataset_are_one_sentence(hub, run, monkeypatch, tmp_path):
    with pytest.raises(SourceError, match="names no dataset; expected hf://datasets/OWNER/NAME"):
        open_source("hf://owner/name")
    assert isinstance(located(b"hf://datasets/owner", b"/x"), Elsewhere)
    assert located(b"../b.png", b"hf://datasets/owner/name/a") == b"hf://datasets/owner/name/b.png"
    status, _, err = run("push-index", tmp_path / "x", f"{ROOT}/a")
    assert (status, "are only read" in err) == (1, True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="the hub cannot be reached"):
        list(open_source(f"{ROOT}/a").files(lambda failure: None))


def test_the_paths_of_a_dataset_are_its_urls(hub):
    found = [os.fsdecode(file.path) for file in open_source(f"{ROOT}/a").files(lambda failure: None)]
    assert found == [f"{ROOT}/a/{number}.png" for number in range(5)]
