"""Hostile bytes on a real connection to the whole application, where clients would tidy what they send.

One server is as `clipdex web` starts it; another lets those who know its token change what it holds.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
import socket
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import noise, png

import clipdex
from clipdex import Collection, Item
from clipdex.wire import FakeTransport

pytest.importorskip("fastapi", reason="the REST API needs the extra web")
from waiting import wait_until
from web_server import serving, settings_of

TOKEN = "a-token-of-some-length"
XSS = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(1)</script>"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Site:
    port: int
    folder: Path

    @property
    def host(self) -> bytes:
        return b"127.0.0.1:%d" % self.port

    def sent(self, *parts: bytes, wait_s: float = 0.02) -> tuple[list[Answer], bytes]:
        """Send bytes as they are -> (the answers, what follows them that is none). `HOST` stands for the host."""
        got = b""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.settimeout(10)
            try:
                for part in parts:
                    connection.sendall(part.replace(b"HOST", self.host))
                while data := connection.recv(1 << 20):
                    got += data
                    if answers(got)[0] and not answers(got)[1]:
                        connection.settimeout(wait_s)  # is there another?
            except (TimeoutError, ConnectionError):
                pass
        return answers(got)

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        """Ask as a client of good will does."""
        lines = [f"{method} {target} HTTP/1.1", "Host: HOST", "Connection: close", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        found, rest = self.sent("\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body)
        assert len(found) == 1 and not rest, (found, rest)
        return found[0]


def answers(got: bytes) -> tuple[list[Answer], bytes]:
    """Split what a server sent."""
    found: list[Answer] = []
    while got.startswith(b"HTTP/1.1 ") and b"\r\n\r\n" in got:
        head, _, rest = got.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", 0))
        if headers.get("transfer-encoding") == "chunked":
            body, ended, got = rest.partition(b"0\r\n\r\n")
            if not ended:
                return found, rest
        elif len(rest) < size:
            return found, rest or head
        else:
            body, got = rest[:size], rest[size:]
        found.append(Answer(int(first.split()[1]), headers, body))
    return found, got


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that no list of known folders has, where there is one: what hides paths must not depend on it."""
    made = Path(tempfile.mkdtemp(prefix="secretplace-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def indexes(folder: Path) -> dict[str, Path]:
    pictures = folder / "secretalbum"
    pictures.mkdir()
    for i in range(3):
        noise(i, (64, 48)).save(pictures / f"{i}.png")
    noise(8).save(pictures / f"{XSS[:-1].replace('/', '')}.png")
    noise(9).save(pictures / "a\r\nSet-Cookie: x=1.png")
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    found = {}
    for name in ("plain", "lan"):
        with clipdex.Client(FakeTransport()) as client:
            clipdex.index_pictures(client, pictures, folder / f"{name}.clipdex", workers=1)
            with Collection.open(folder / f"{name}.clipdex", client=client) as pets:
                pets.add([Item(f"{XSS}{SCRIPT}", png(100), metadata={"title": XSS, XSS: SCRIPT})])
                pets.add([Item("removed", png(101), metadata={"title": "gone"})])
                pets.remove("removed")
        found[name] = folder / f"{name}.clipdex"
    return found


@pytest.fixture(scope="module")
def site(indexes: dict[str, Path], folder: Path) -> Iterator[Site]:
    cache = folder / "thumbnails"
    with serving(
        settings_of(indexes["plain"], thumbnail_cache=cache, body_timeout_s=0.6, decode_workers=1)
    ) as port:
        yield Site(port, folder)


@pytest.fixture(scope="module")
def lan(indexes: dict[str, Path], folder: Path) -> Iterator[Site]:
    settings = settings_of(
        indexes["lan"],
        thumbnail_cache=folder / "thumbnails",
        token=TOKEN,
        allow_write=True,
        body_timeout_s=5.0,
        decode_workers=1,
        max_upload_bytes=4 << 20,
    )
    with serving(settings) as port:
        yield Site(port, folder)


def is_harmless(answer: Answer, *, shown: tuple[str, ...] = ()) -> None:
    """Check what holds for every answer, whatever was asked."""
    text = str(answer.headers) + answer.body.decode("utf-8", "replace")
    for path in ("secretplace", "secretalbum", str(Path(clipdex.__file__).parent), "root:x:0", "Traceback"):
        assert path not in text, text[:2000]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "cache-control" in answer.headers and "server" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "set-cookie" not in answer.headers
    assert "\r" not in str(answer.headers) and XSS not in str(answer.headers)
    if answer.headers.get("content-type", "").startswith("text/html"):
        assert "<img src=x" not in text and "<script>alert" not in text
    location = answer.headers.get("location")
    if location is not None:
        assert location.startswith(("/", "http://127.0.0.1:")) and not location.startswith("//"), location
    if answer.status >= 400:
        assert answer.headers["content-type"] in ("application/problem+json", "text/html; charset=utf-8")


# Bytes that are no HTTP, or HTTP that may be read in two ways

_GET = b"GET /v1/info HTTP/1.1\r\nHost: HOST\r\n"
_POST = b"POST /v1/search HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\n"
_SECOND = b"GET /v1/info?smuggled HTTP/1.1\r\nHost: HOST\r\nX-Request-ID: smuggled\r\n\r\n"
_BODY = b'{"row": 0}'

# (what is sent, statuses that the first answer may have). None of them has a second answer.
RAW: dict[str, tuple[bytes, set[int]]] = {
    "length and chunks": (
        _POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _SECOND,
        {400},
    ),
    "chunks and length": (
        _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n0\r\n\r\n" + _SECOND,
        {400},
    ),
    "length 0 and chunks": (
        _GET + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _SECOND,
        {400},
    ),
    "two lengths": (_POST + b"Content-Length: 2\r\nContent-Length: 10\r\n\r\n" + _BODY + _SECOND, {400}),
    "a list of lengths": (_POST + b"Content-Length: 2, 10\r\n\r\n" + _BODY + _SECOND, {400}),
    "length with a sign": (_POST + b"Content-Length: +10\r\n\r\n" + _BODY + _SECOND, {400}),
    "length below 0": (_POST + b"Content-Length: -10\r\n\r\n" + _BODY + _SECOND, {400}),
    "length in hexadecimals": (_POST + b"Content-Length: 0xa\r\n\r\n" + _BODY + _SECOND, {400}),
    "length with a fraction": (_POST + b"Content-Length: 1e1\r\n\r\n" + _BODY + _SECOND, {400}),
    "length in Arabic digits": (_POST + "Content-Length: ١٠\r\n\r\n".encode() + _BODY + _SECOND, {400}),
    "length with a blank in it": (_POST + b"Content-Length: 1 0\r\n\r\n" + _BODY + _SECOND, {400}),
    "empty length": (_POST + b"Content-Length: \r\n\r\n" + _BODY + _SECOND, {400}),
    "length beyond every number": (_POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + _BODY, {400, 413}),
    "length of 19 digits": (_POST + b"Content-Length: 9999999999999999999\r\n\r\n" + _BODY, {400, 413}),
    "unknown coding": (_POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + _SECOND, {400}),
    "two codings": (_POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + _SECOND, {400}),
    "a coding twice": (
        _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _SECOND,
        {400},
    ),
    "chunked and identity": (
        _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + _SECOND,
        {400},
    ),
    "coding with a tab": (_POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + _SECOND, {400}),
    "coding on the next line and a length": (
        _POST + b"Content-Length: 3\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + _SECOND,
        {400},
    ),
    "blank before the colon": (
        _POST + b"Transfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + _SECOND,
        {400},
    ),
    "a chunk of no number": (_POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n" + _SECOND, {400}),
    "a chunk below 0": (_POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + _SECOND, {400}),
    "a chunk with 0x": (_POST + b"Transfer-Encoding: chunked\r\n\r\n0xa\r\n" + _BODY + b"\r\n0\r\n\r\n", {400}),
    "a chunk beyond every number": (
        _POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n" + _BODY,
        {400},
    ),
    "a chunk that is longer than it says": (
        _POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n" + _BODY + b"\r\n0\r\n\r\n" + _SECOND,
        {400},
    ),
    "a chunk without its end": (
        _POST + b"Transfer-Encoding: chunked\r\n\r\na\r\n" + _BODY + b"XX0\r\n\r\n" + _SECOND,
        {400},
    ),
    "a chunk's extension without end": (
        _POST + b"Transfer-Encoding: chunked\r\n\r\na;" + b"x" * 200_000 + b"\r\n",
        {400},
    ),
    "trailers without end": (
        _POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 30_000,
        {400},
    ),
    "folded host": (b"GET /v1/info HTTP/1.1\r\nHost: HOST\r\n evil.example\r\n\r\n", {400}),
    "first header folded": (b"GET /v1/info HTTP/1.1\r\n Host: HOST\r\n\r\n", {400}),
    "header without colon": (_GET + b"nothing\r\n\r\n", {400}),
    "header without name": (_GET + b": x\r\n\r\n", {400}),
    "CR in a header": (_GET + b"X: a\rSet-Cookie: x=1\r\n\r\n", {400}),
    "NUL in a header": (_GET + b"X: a\0b\r\n\r\n", {400}),
    "control character in a name": (_GET + b"X\x01: a\r\n\r\n", {400}),
    "CR in the target": (b"GET /v1/info\rX HTTP/1.1\r\nHost: HOST\r\n\r\n", {400}),
    "NUL in the target": (b"GET /v1/info\0 HTTP/1.1\r\nHost: HOST\r\n\r\n", {400}),
    "no ASCII in the target": ("GET /v1/ïnfo HTTP/1.1\r\nHost: HOST\r\n\r\n".encode(), {400}),
    "two blanks": (b"GET  /v1/info HTTP/1.1\r\nHost: HOST\r\n\r\n", {400}),
    "a tab": (b"GET\t/v1/info\tHTTP/1.1\r\nHost: HOST\r\n\r\n", {400}),
    "no target": (b"GET HTTP/1.1\r\nHost: HOST\r\n\r\n", {400}),
    "no method": (b" /v1/info HTTP/1.1\r\nHost: HOST\r\n\r\n", {400}),
    "HTTP/0.9": (b"GET /v1/info\r\n\r\n", {400}),
    "HTTP/1.0 without Host": (b"GET /v1/info HTTP/1.0\r\n\r\n", {400}),
    "HTTP/1.1 without Host": (b"GET /v1/info HTTP/1.1\r\n\r\n", {400}),
    "HTTP/2": (b"PRI * HTTP/2.0\r\nHost: HOST\r\n\r\n", {505}),
    "HTTP/9.9": (b"GET /v1/info HTTP/9.9\r\nHost: HOST\r\n\r\n", {505}),
    "HTTP/x": (b"GET /v1/info HTTP/x\r\nHost: HOST\r\n\r\n", {400}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n", {400}),
    "two hosts": (_GET + b"Host: evil.example\r\n\r\n", {400}),
    "a host twice": (_GET + b"Host: HOST\r\n\r\n", {400}),
    "another host": (b"GET /v1/info HTTP/1.1\r\nHost: evil.example\r\n\r\n", {421}),
    "another host at the page": (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", {421}),
    "another host at a file": (b"GET /static/main.js HTTP/1.1\r\nHost: evil.example\r\n\r\n", {421}),
    "another host at metrics": (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", {421}),
    "another host at the document": (b"GET /v1/openapi.json HTTP/1.1\r\nHost: evil.example\r\n\r\n", {421}),
    "our host with a user": (b"GET /v1/info HTTP/1.1\r\nHost: a@HOST\r\n\r\n", {400}),
    "our host before theirs": (b"GET /v1/info HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n", {421}),
    "the number of our host": (b"GET /v1/info HTTP/1.1\r\nHost: 2130706433\r\n\r\n", {421}),
    "all addresses as host": (b"GET /v1/info HTTP/1.1\r\nHost: 0.0.0.0\r\n\r\n", {421}),
    "their address as target": (b"GET http://evil.example/v1/info HTTP/1.1\r\nHost: HOST\r\n\r\n", {404}),
    "their address as host": (b"GET http://HOST/v1/info HTTP/1.1\r\nHost: evil.example\r\n\r\n", {421}),
    "a file as target": (b"GET file:///etc/passwd HTTP/1.1\r\nHost: HOST\r\n\r\n", {404}),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: HOST\r\n\r\n", {404, 405, 421}),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n", {404, 405}),
    "TRACE": (b"TRACE /v1/info HTTP/1.1\r\nHost: HOST\r\nCookie: secret=1\r\n\r\n", {405}),
    "an unknown method": (b"JEFF /v1/info HTTP/1.1\r\nHost: HOST\r\n\r\n", {405}),
    "a websocket": (
        _GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AA==\r\n"
        b"Sec-WebSocket-Version: 13\r\nOrigin: https://evil.example\r\n\r\n",
        {403},
    ),
    "HTTP/2 in the clear": (
        _GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        {200},
    ),
    "too many headers": (_GET + b"X: y\r\n" * 200 + b"\r\n", {431, 400}),
    "headers that are too long": (_GET + b"X: " + b"y" * 70_000 + b"\r\n\r\n", {431, 400}),
    "a head without end": (_GET + b"X: " + b"y" * 300_000, {400}),
    "a path that is too long": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n", {414}),
    "a query that is too long": (
        b"GET /v1/search?text=" + b"a" * 50_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n",
        {414},
    ),
    "many fields in a query": (
        b"GET /v1/search?" + b"text=a&" * 1000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n",
        {400},
    ),
    "a body that is too large, expecting 100": (
        _POST + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n",
        {413},
    ),
    "a body of a GET": (_GET + b"Content-Length: 9999\r\n\r\n", {413}),
    "a compressed body": (_POST + b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n" + _BODY, {415}),
    "a body compressed twice": (
        _POST + b"Content-Encoding: identity\r\nContent-Encoding: br\r\nContent-Length: 10\r\n\r\n" + _BODY,
        {415},
    ),
    "less body than it says": (_POST + b"Content-Length: 100\r\n\r\n" + _BODY, {408}),
    "no body at all": (_POST + b"Content-Length: 10\r\n\r\n", {408}),
    "no length": (_POST + b"\r\n", {422}),
    "two types of a body": (_POST + b"Content-Type: text/plain\r\nContent-Length: 10\r\n\r\n" + _BODY, {400}),
    "two origins": (_GET + b"Origin: http://HOST\r\nOrigin: https://evil.example\r\n\r\n", {400}),
    "no origin at all": (_GET + b"Origin: null\r\n\r\n", {403}),
    "an origin of another port": (_GET + b"Origin: http://127.0.0.1:1\r\n\r\n", {403}),
    "an origin with a blank": (_GET + b"Origin: http://HOST https://evil.example\r\n\r\n", {403}),
    "an origin that ours begins": (_GET + b"Origin: http://HOST.evil.example\r\n\r\n", {403}),
    "a page that loads the list": (_GET + b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n\r\n", {403}),
    "a page of a sister's": (_GET + b"Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\n\r\n", {403}),
    "two kinds of a site": (_GET + b"Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n\r\n", {400}),
    "another page's frame": (
        b"GET / HTTP/1.1\r\nHost: HOST\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"
        b"Sec-Fetch-Dest: iframe\r\n\r\n",
        {403},
    ),
    "a preflight": (
        b"OPTIONS /v1/search HTTP/1.1\r\nHost: HOST\r\nOrigin: https://evil.example\r\n"
        b"Access-Control-Request-Method: POST\r\n\r\n",
        {403},
    ),
    "a token in the address": (b"GET /v1/info?token=abc HTTP/1.1\r\nHost: HOST\r\n\r\n", {400}),
    "a token in the address, written otherwise": (
        b"GET /v1/info?%74oken=abc HTTP/1.1\r\nHost: HOST\r\n\r\n",
        {400},
    ),
    **{
        f"folder above: {target}": (b"GET %b HTTP/1.1\r\nHost: HOST\r\n\r\n" % target.encode(), {404, 422, 400})
        for target in (
            "/../../../etc/passwd",
            "/static/../../../../etc/passwd",
            "/static/..%2f..%2f..%2fetc/passwd",
            "/static/%2e%2e/%2e%2e/page.html",
            "/static//etc/passwd",
            "/static/..\\..\\etc\\passwd",
            "/static/main.js/",
            "/static/main.js%00.css",
            "/static/../templates/page.html",
            "/v1/pictures/../../etc/passwd",
            "/v1/pictures/0/../../../etc/passwd",
            "/v1/pictures/0/original/../../../etc/passwd",
            "/v1/pictures/%2fetc%2fpasswd/original",
            "/v1/items/../info",
            "/v1/items/%2e%2e/info",
            "/v1/items/.",
            "/v1/items/..",
            "/v1/items/a/../b",
            "/v1/items/%0d%0aSet-Cookie:%20x=1",
            "/v1/items/%F0%9F%98%80",
            "/v1/items/%ED%A0%80",
            "/v1/items/%ff",
            "/v1/items/" + "%2e" * 2000,
            "/./v1/info",
            "/v1/./info",
            "/V1/INFO",
            "//v1/info",
            "//evil.example/v1/info",
            "/\\evil.example",
            "/v1/info;x=1",
            "/v1/openapi.json/../info",
            "/docs",
            "/redoc",
            "/favicon.ico%00",
            "/.git/config",
            "/v1/pictures/0x0/original",
            "/v1/pictures/-0/thumbnail?side=999999",
            "/v1/pictures/9223372036854775808/original",
            "/v1/pictures/1e3/thumbnail",
            "/v1/pictures/%D9%A0%D9%A0x/thumbnail",
            "/v1/pictures/" + "9" * 5000,
        )
    },
}


@pytest.mark.parametrize("name", RAW)
def test_hostile_bytes_have_one_answer_that_says_no(site: Site, name: str) -> None:
    data, statuses = RAW[name]
    found, rest = site.sent(data, wait_s=0.15 if _SECOND in data else 0.02)
    assert [each.status for each in found] and not rest, (found, rest)
    assert found[0].status in statuses, found[0]
    assert len(found) == 1, found
    is_harmless(found[0])


def test_requests_in_a_row_on_one_connection_are_answered_in_order(site: Site) -> None:
    found, rest = site.sent(b"".join(_GET + b"X-Request-ID: r%d\r\n\r\n" % i for i in range(50)), wait_s=0.5)
    assert [each.headers["x-request-id"] for each in found] == [f"r{i}" for i in range(50)] and not rest
    assert {each.status for each in found} == {200}


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/info HTTP/1.1\nHost: HOST\nConnection: close\n\n",
        b"GET /v1/info HTTP/1.0\r\nHost: HOST\r\n\r\n",
        _POST + b"Transfer-Encoding: chunked\r\n\r\na;x=y\r\n" + _BODY + b"\r\n0\r\nX: y\r\n\r\n",
        _POST + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n" + _BODY,
    ],
)
def test_what_the_standard_lets_a_client_send_is_answered_once(site: Site, data: bytes) -> None:
    found, rest = site.sent(data, wait_s=1.0)
    assert [each.status for each in found if each.status != 100] == [200] and not rest
    is_harmless(found[-1])


# What comes as one asks, of a server that lets its clients write

_AUTH = {"Authorization": f"Bearer {TOKEN}"}
_JSON = _AUTH | {"Content-Type": "application/json"}
_FORM = _AUTH | {"Content-Type": "multipart/form-data; boundary=b"}
_VECTOR = b"[" + b"0.0," * 7 + b"1.0]"


def form(*parts: tuple[str, bytes]) -> bytes:
    """A body of parts: (their headers after `Content-Disposition: form-data`, their content)."""
    said = b"".join(
        b"--b\r\nContent-Disposition: form-data%b\r\n\r\n%b\r\n" % (head.encode(), data) for head, data in parts
    )
    return said + b"--b--\r\n"


_DEEP = b'{"a":' * 70 + b"1" + b"}" * 70
_PNG = png(3)

# (method, target, headers, body, statuses)
ASKED: dict[str, tuple[str, str, dict[str, str], bytes, set[int]]] = {
    # Without the token, nothing but health is answered
    **{
        f"no token: {method} {target}": (method, target, {}, b"", {401})
        for method, target in (
            ("GET", "/"),
            ("GET", "/v1/info"),
            ("GET", "/v1/openapi.json"),
            ("GET", "/metrics"),
            ("GET", "/readyz"),
            ("GET", "/static/main.js"),
            ("GET", "/v1/pictures/0/original"),
            ("GET", "/v1/pictures/0/thumbnail"),
            ("DELETE", "/v1/items/a"),
            ("GET", "/nothing"),
            ("GET", "/healthz/"),
            ("GET", "//healthz"),
            ("GET", "/healthz/../v1/info"),
            ("GET", "/login/"),
            ("GET", "/v1/../healthz"),
        )
    },
    **{
        f"tampered: {name}: {value[:40]}": ("GET", "/v1/info", {name: value}, b"", {401, 400})
        for name, value in (
            ("Authorization", f"Basic {TOKEN}"),
            ("Authorization", f"Bearer {TOKEN}x"),
            ("Authorization", f"Bearer Bearer {TOKEN}"),
            ("Authorization", TOKEN),
            ("X-Api-Key", TOKEN),
            ("Cookie", f"clipdex_session={TOKEN}"),
            ("Cookie", "clipdex_session=9999999999.aaaaaaaaaaaaaaaa." + "0" * 64),
            ("Cookie", "clipdex_session=" + ";clipdex_session=" * 1000),
            ("Cookie", "clipdex_session=é"),
            ("Cookie", "clipdex_session=..."),
        )
    },
    **{
        f"leads elsewhere: {target}": ("GET", f"/login?next={target}", {"Accept": "text/html"}, b"", {200})
        for target in (
            "//evil.example",
            "https://evil.example",
            "/%5cevil.example",
            "javascript:alert(1)",
            "%0d%0aX:1",
        )
    },
    # Pages of others
    **{
        f"forged: {kind}": ("POST", "/v1/items/remove", _AUTH | {"Content-Type": kind}, b'{"ids": ["a"]}', {415})
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=b",
            "text/plain; application/json",
            "application/jsonp",
            "application/json+x",
        )
    },
    "forged: no type": ("POST", "/v1/items/remove", _AUTH, b'{"ids": ["a"]}', {415}),
    "forged: a page of theirs": (
        "POST",
        "/v1/items/remove",
        _JSON | {"Origin": "https://evil.example"},
        b'{"ids": ["a"]}',
        {403},
    ),
    "forged: a page of nobody's": (
        "POST",
        "/v1/items/remove",
        _JSON | {"Origin": "null"},
        b'{"ids": ["a"]}',
        {403},
    ),
    "forged: no-cors": (
        "POST",
        "/v1/items/remove",
        _JSON | {"Sec-Fetch-Site": "cross-site"},
        b'{"ids": ["a"]}',
        {403},
    ),
    "forged: a link of theirs": (
        "POST",
        "/v1/items/remove",
        _JSON | {"Referer": "https://evil.example/"},
        b'{"ids": ["a"]}',
        {403},
    ),
    "a method in a header": ("GET", "/v1/items/a", _AUTH | {"X-HTTP-Method-Override": "DELETE"}, b"", {404}),
    # Bodies
    **{
        f"items: {body[:40]!r}": ("POST", "/v1/items", _JSON, body, {422})
        for body in (
            b"",
            b"null",
            b"{",
            b"{}",
            b"[1]",
            b"\xff",
            b'[{"id": "a"}]',
            b'[{"id": "", "vector": [1]}]',
            b'[{"id": "a", "vector": []}]',
            b'[{"id": "a", "vector": [NaN]}]',
            b'[{"id": "a", "vector": [1e999]}]',
            b'[{"id": "a", "vector": [1, "x"]}]',
            b'[{"id": "a", "vector": [0,0,0,0,0,0,0,0]}]',
            b'[{"id": "a", "vector": ' + _VECTOR + b', "image": "AAAA"}]',
            b'[{"id": "a", "id": "b", "vector": ' + _VECTOR + b"}]",
            b'[{"id": "a", "path": "/etc/passwd", "vector": ' + _VECTOR + b"}]",
            b'[{"id": "a", "image": "/etc/passwd"}]',
            b'[{"id": "a", "image": "file:///etc/passwd"}]',
            b'[{"id": "a", "image": "http://127.0.0.1/x.png"}]',
            b'[{"id": "a", "image": "data:text/html;base64,AAAA"}]',
            b'[{"id": "\\u0000", "vector": ' + _VECTOR + b"}]",
            b'[{"id": "\\ud800", "vector": ' + _VECTOR + b"}]",
            b'[{"id": "' + b"a" * 1025 + b'", "vector": ' + _VECTOR + b"}]",
            b'[{"id": 1, "vector": ' + _VECTOR + b"}]",
            b'[{"id": "a", "vector": ' + _VECTOR + b', "metadata": []}]',
            b'[{"id": "a", "vector": ' + _VECTOR + b', "metadata": ' + _DEEP + b"}]",
            b'[{"id": "a", "vector": ' + _VECTOR + b', "metadata": {"x": "' + b"a" * 70_000 + b'"}}]',
            b"[" * 100_000,
            b"[" + b'{"id": "a", "vector": ' + _VECTOR + b"}," * 1001 + b"1]",
            b"[" + b"1," * 300_000 + b"1]",
            b"[" + b"[]," * 1_300_000 + b"1]",
            b'[{"id": "a", "vector": [' + b"[]," * 300_000 + b"1]}]",
            b"[{" + b",".join(b'"%x": 1' % i for i in range(50_000)) + b"}]",
            b"[{" + b",".join(b'"%x": 1' % i for i in range(50_000)) + b', "z": 1, "z": 2}]',
        )
    },
    **{
        f"search: {body[:40]!r}": ("POST", "/v1/search", _JSON, body, {422})
        for body in (
            b'{"row": true}',
            b'{"row": 0.0}',
            b'{"row": "0"}',
            b'{"row": 0, "text": "a"}',
            b'{"row": 0, "top_k": 1001}',
            b'{"row": 0, "where": ""}',
            b'{"row": 0, "where": 1}',
            b'{"row": 0, "where": "width > :x"}',
            b'{"row": 0, "where": "width > :x", "params": {"x": [1]}}',
            b'{"row": 0, "where": "width > :x", "params": {"x": 9223372036854775808}}',
            b'{"row": 0, "where": "1", "params": {"x y": 1}}',
            b'{"row": 0, "where": "1", "params": {' + b",".join(b'"x%d": []' % i for i in range(100_000)) + b"}}",
            b'{"row": 0,' + b",".join(b'"x%d": 1' % i for i in range(100_000)) + b"}",
            b'{"parts": [' + b'{"row": 0},' * 64 + b'{"row": 0}]}',
            b'{"parts": [' + b"1," * 200_000 + b"1]}",
            b'{"parts": [{"row": 0, "weight": 0}]}',
            b'{"parts": [{"row": 0, "weight": 1e400}]}',
            b'{"parts": [{"row": 0}, {"row": 0, "weight": -1}]}',
            b'{"vector": [' + b"1," * 70_000 + b"1]}",
            b'{"vector": [1]}',
            b'{"vector": "AAAA"}',
            b'{"id": "\\u0000"}',
            b'{"id": ""}',
            b'{"group": {"similarity": 2}, "row": 0}',
            b'{"text": "' + b"a" * 10_001 + b'"}',
            b'{"row": 0, "min_score": 1.5}',
            b'{"image": "@"}',
            b'{"image": ""}',
        )
    },
    "search: a body that is too large": ("POST", "/v1/search", _JSON, b" " * (2 << 20) + b"{}", {413}),
    "search: a path of ours as an id": ("POST", "/v1/search", _JSON, b'{"id": "/etc/passwd"}', {404}),
    **{
        f"remove: {body[:40]!r}": ("POST", "/v1/items/remove", _JSON, body, {422})
        for body in (
            b"",
            b"[]",
            b'{"ids": "a"}',
            b'{"ids": [1]}',
            b'{"ids": [""]}',
            b'{"ids": ["a"], "all": true}',
            b'{"ids": [' + b'"a",' * 10_000 + b'"a"]}',
            b'{"ids": [' + b"1," * 200_000 + b"1]}",
            b'{"ids": ["\\ud800"]}',
        )
    },
    "remove: ids that mean all": ("POST", "/v1/items/remove", _JSON, b'{"ids": ["*", "%", "..", "/"]}', {200}),
    **{
        f"{method} {target}": (method, target, _JSON, b'{"metadata": {}}', {404, 422, 405})
        for method in ("PATCH", "DELETE")
        for target in (
            "/v1/items/",
            "/v1/items/%2e%2e",
            "/v1/items/*",
            "/v1/items/%25",
            "/v1/items/a%0d%0ab",
            "/v1/items/" + "a" * 2000,
            "/v1/items//etc/passwd",
            "/v1/pictures/0",
        )
    },
    **{
        f"put: {target}": ("PUT", target, _JSON, b'{"vector": [1]}', {422, 405, 400, 409})
        for target in ("/v1/items/", "/v1/items/%00", "/v1/items/" + "a" * 2000, "/v1/pictures/0", "/v1/items/%ff")
    },
    "put: no picture": (
        "PUT",
        "/v1/items/x",
        _AUTH | {"Content-Type": "image/png"},
        b"<svg onload=alert(1)>",
        {422},
    ),
    "put: a page": ("PUT", "/v1/items/x", _AUTH | {"Content-Type": "text/html"}, b"<script>", {415}),
    "put: a picture that is too large": (
        "PUT",
        "/v1/items/x",
        _AUTH | {"Content-Type": "image/png"},
        b"x" * (5 << 20),
        {413},
    ),
    "put: metadata that are none": (
        "PUT",
        "/v1/items/x?metadata=[1]",
        _AUTH | {"Content-Type": "image/png"},
        _PNG,
        {422},
    ),
    # Forms
    **{
        f"form: {name}": ("POST", "/v1/search", _FORM, body, {422, 400})
        for name, body in {
            "nothing": b"",
            "no end": b"--b\r\nContent-Disposition: form-data; name=image; filename=x\r\n\r\nabc",
            "no parts": b"--b--\r\n",
            "no name": form(("", b"x")),
            "a thousand files": form(*[("; name=image; filename=x", b"x")] * 1000),
            "a thousand fields": form(*[("; name=request", b"{}")] * 1000),
            "a thousand headers": form(("; name=image; filename=x\r\n" + "X: y\r\n" * 1000 + "Z: y", b"x")),
            "a long header": form(("; name=image; filename=" + "x" * 100_000, b"x")),
            "a field in place of a file": form(("; name=image", b"x")),
            "a file in place of a field": form(
                ("; name=image; filename=x", _PNG), ("; name=request; filename=y", b"{}")
            ),
            "a file named as ours": form(("; name=image; filename=../../../etc/passwd", b"x")),
            "a field that is too large": form(("; name=request", b"x" * (3 << 20))),
            "another query": form(("; name=image; filename=x", _PNG), ("; name=request", b'{"row": 0}')),
        }.items()
    },
    "form: no boundary": (
        "POST",
        "/v1/search",
        _AUTH | {"Content-Type": "multipart/form-data"},
        b"--b--",
        {400, 422},
    ),
    "form: a long boundary": (
        "POST",
        "/v1/search",
        _AUTH | {"Content-Type": "multipart/form-data; boundary=" + "b" * 50_000},
        b"--b--",
        {400, 422},
    ),
    # Other routes
    **{
        f"classify: {body[:40]!r}": ("POST", "/v1/classify", _JSON, body, {422, 404})
        for body in (
            b"{}",
            b'{"labels": [], "row": 0}',
            b'{"labels": ["a"]}',
            b'{"labels": ["a"], "row": 99999}',
            b'{"labels": [' + b'"a",' * 2000 + b'"a"], "row": 0}',
            b'{"labels": [' + b"1," * 200_000 + b'1], "row": 0}',
            b'{"labels": ["a"], "templates": ["' + b"{" * 1000 + b'"], "row": 0}',
            b'{"labels": ["a"], "templates": ["{0.__class__}"], "row": 0}',
            b'{"labels": ["a"], "id": "/etc/passwd"}',
        )
    },
    **{
        f"embeddings: {body[:40]!r}": ("POST", "/v1/embeddings", _JSON, body, {422, 400, 404})
        for body in (
            b"{}",
            b'{"model": "clipdex", "input": []}',
            b'{"model": "../x", "input": "a"}',
            b'{"model": "clipdex", "input": [1, 2]}',
            b'{"model": "clipdex", "input": "data:image/png;base64,AAAA"}',
            b'{"model": "clipdex", "input": [' + b"{}," * 2000 + b"{}]}",
            b'{"model": "clipdex", "input": [' + b"1.5," * 200_000 + b"1]}",
            b'{"model": "clipdex", "input": "' + b"a" * 200_000 + b'"}',
            b'{"model": "clipdex", "input": [{"type": "image_url", "image_url": "http://127.0.0.1/"}]}',
            b'{"model": "clipdex", "input": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}',
        )
    },
    **{
        f"asked: {target}": ("GET", target, _AUTH, b"", {422, 403, 404})
        for target in (
            "/v1/facets?by=folder",
            "/v1/facets?by=path",
            "/v1/facets?by=name&where=path%20LIKE%20'/s%25'",
            "/v1/facets?by=name&where=(SELECT%201)",
            "/v1/facets?by=name&limit=99999999",
            "/v1/facets?by=name&params={%22a%22:1}",
            "/v1/facets?by=" + "a" * 500,
            "/v1/facets?by=name&where=1&params=[1]",
            "/v1/facets?by=name&unit=second",
            "/v1/duplicates?kind=../x",
            "/v1/duplicates?kind=exact&limit=0",
            "/v1/duplicates?kind=exact&offset=-1",
            "/v1/failures?limit=1e9",
            "/v1/failures?offset=99999999999999999999",
            "/v1/items?after=1e9",
            "/v1/items?limit=100000",
            "/v1/items?after=9223372036854775808",
            "/v1/search",
            "/v1/search?text=",
            "/v1/search?text=a&top_k=1001",
            "/v1/search?text=a&offset=1000001",
            "/v1/search?text=a&min_score=nan",
            "/v1/info?index=..",
            "/v1/info?index=secret",
            "/v1/info?index=lan.clipdex",
            "/v1/info?index=%00x",
            "/v1/similar",
            "/v1/similar?row=0&id=a",
            "/v1/similar?row=-1",
            "/v1/similar?id=/etc/passwd",
            "/v1/similar?id=%2fdev%2fshm",
            "/v1/pictures/5/original",
            "/v1/pictures/0/original?v=x",
            "/v1/pictures/0/thumbnail?v=" + "0" * 16,
            "/v1/pictures/0/thumbnail?side=1e3",
            "/v1/pictures/0/thumbnail?side=-1",
            "/v1/pictures/0/thumbnail?side=10000000",
            "/v1/pictures/99999/thumbnail",
            "/v1/pictures/0/original?v=" + "a" * 100,
        )
    },
    # Conditions: they filter, or are refused
    **{
        f"where: {where[:60]}": (
            "POST",
            "/v1/search",
            _JSON,
            json.dumps({"row": 0, "where": where}).encode(),
            {422, 403},
        )
        for where in (
            "1); DELETE FROM rows; --",
            "1) OR (1",
            "1) --",
            "1) /*",
            "1 /*",
            "1 --\n)",
            "1 THEN 1 END FROM pictures /*",
            "1 THEN 1 END FROM pictures --",
            "1 ORDER BY row",
            "1 LIMIT 1",
            "1 GROUP BY row",
            "1) UNION SELECT 1 --",
            "1; ATTACH 'x' AS y",
            "ATTACH 'x' AS y",
            "PRAGMA table_info(rows)",
            "pragma_table_info('rows')",
            "load_extension('x')",
            "writefile('x', 'y')",
            "readfile('/etc/passwd')",
            "edit('x')",
            "fts3_tokenizer('x')",
            "EXISTS (SELECT 1)",
            "row IN (SELECT row FROM rows)",
            "row IN rows",
            "row IN main.rows",
            "row IN sqlite_master",
            "row IN json_each('[1]')",
            "row IN generate_series(1, 9)",
            "row IN (VALUES (1))",
            "row IN (WITH x AS (SELECT 1) SELECT * FROM x)",
            "WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT n FROM x",
            "(SEL/**/ECT 1)",
            "(select\t1)",
            "1 IN (TABLE x)",
            "deleted_at IS NULL",
            "rows.deleted_at IS NULL",
            "rowid = 1",
            "content_hash IS NOT NULL",
            "main.rows.path IS NOT NULL",
            "temp.pictures.path IS NOT NULL",
            "pictures.path IS NOT NULL",
            "PATH IS NOT NULL",
            "[path] IS NOT NULL",
            "`path` IS NOT NULL",
            '"path" IS NOT NULL',
            "\"PaTh\" > '/dev'",
            "path/**/IS/**/NOT/**/NULL",
            "folder GLOB '/dev*'",
            "Folder > 'a'",
            "length(path) > 3",
            "has(path, 'a', 'b')",
            "CASE WHEN path > '/' THEN 1 END",
            "name LIKE 'a' ESCAPE path",
            "path IS NOT NULL --",
            "1 -- \n AND path > ''",
            "path COLLATE NOCASE > ''",
            "(path) > ''",
            "+path > ''",
            "width > 1 OR folder = :x",
            "printf('%100000000d', 1)",
            "zeroblob(1000000000) > 1",
            "randomblob(9) > 1",
            "replace(name, '', name) > 1",
            "group_concat(name) > 1",
            "count(*) > 1",
            "sum(width) OVER () > 1",
            "width REGEXP '(a+)+$'",
            "name MATCH 'a'",
            "name REGEXP 'a'",
            "sqlite_version() > 1",
            "sqlite_source_id() > 1",
            "last_insert_rowid() > 1",
            "changes() > 1",
            "random() > 1",
            "raise(ABORT, 'x')",
            "likelihood(1, 2)",
            "CAST(1 AS",
            "'",
            '"',
            "`",
            "[",
            "x'0",
            "?1",
            "@x",
            "$x",
            ":x",
            "#x",
            "1" + "+1" * 3000,
            "(" * 300 + "1" + ")" * 300,
            "NOT " * 2000 + "1",
            "a\0b",
            "\ud7ff" * 10_001,
            " " * 100,
            "width IN (" + "1," * 4000 + "1",
            "max(" + "1," * 30 + "1) > 0",
            "item_text(x'00') > 1",
            "composed_path('a') > 1",
            "last_part('a') > 1",
            "first_part('/a/b') > 1",
            "item_id('a') > 1",
        )
    },
    **{
        f"where on the page: {where}": (
            "GET",
            "/?text=a&where=" + where,
            _AUTH | {"Accept": "text/html"},
            b"",
            {422, 403},
        )
        for where in (
            "path%3E''",
            "1)%20OR%20(path%3E''",
            "(SELECT%201)",
            "folder%3E''&where=1",
            "1&where=%22path%22%3E''",
        )
    },
}


@pytest.mark.slow
# Starlette leaves the file of a part without end to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_with_ill_will_is_refused(lan: Site, name: str) -> None:
    method, target, headers, body, statuses = ASKED[name]
    answer = lan.ask(method, target, body, **headers)
    assert answer.status in statuses, answer
    is_harmless(answer)
    assert len(answer.body) < 20_000, "a refusal is short"


def test_there_are_more_than_four_hundred_probes_that_name_their_answer() -> None:
    assert len(RAW) + len(ASKED) > 400
    assert all(status >= 400 for _, statuses in RAW.values() for status in statuses - {200})


# Pictures

_RANGES = {
    "bytes=0-": 206, "bytes=-1": 206, "bytes=0-0": 206, "bytes=0-99999999999999999999": 206, "BYTES = 0 - 1": 206,
    "bytes=99999999999999999999-": 416, "bytes=-0": 416, "bytes=5-1": 200, "bytes=": 200, "bytes=-": 200,
    "bytes=--1": 200, "bytes=-1-5": 200, "bytes=0-1,2-3": 200, "bytes=" + "0-0," * 5000 + "0-0": 200,
    "bytes=0-1;q=1": 200, "items=0-1": 200, "bits=0-1": 200, "0-1": 200, "bytes 0-1": 200, "bytes=0x0-0x1": 200,
    "bytes=+0-1": 200, "bytes=0.5-1": 200, "bytes=" + "9" * 40 + "-": 200, "bytes=٠-١": 200, "none": 200, "": 200,
}  # fmt: skip


@pytest.mark.parametrize("asked", _RANGES)
def test_a_range_is_a_part_or_nothing_of_it_counts(site: Site, asked: str) -> None:
    whole = site.ask("GET", "/v1/pictures/0/original")
    found = site.ask("GET", "/v1/pictures/0/original", Range=asked)
    is_harmless(found)
    assert found.status == _RANGES[asked]
    assert len(found.body) == int(found.headers["content-length"])
    if found.status == 200:
        assert found.body == whole.body and "content-range" not in found.headers
    if found.status == 206:
        assert found.body in whole.body and found.headers["content-range"].endswith(f"/{len(whole.body)}")
    thumbnail = site.ask("GET", "/v1/pictures/0/thumbnail", Range=asked)
    assert thumbnail.status == 200 and thumbnail.body.startswith(b"\xff\xd8")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": "TAG"}, 304),
        ({"If-None-Match": "W/TAG"}, 304),
        ({"If-None-Match": '"x", TAG'}, 304),
        ({"If-None-Match": "TAGx"}, 200),
        ({"If-None-Match": '"x' * 5000}, 200),
        ({"If-None-Match": "TAG".strip('"') + "'"}, 200),
        ({"If-None-Match": '"é"'}, 200),
        ({"If-Range": '"x"', "Range": "bytes=0-1"}, 200),
        ({"If-Range": "W/TAG", "Range": "bytes=0-1"}, 200),
        ({"If-Range": "*", "Range": "bytes=0-1"}, 200),
        ({"If-Range": "Sat, 28 Nov 2026 00:00:00 GMT", "Range": "bytes=0-1"}, 200),
        ({"If-Range": "TAG", "Range": "bytes=0-1"}, 206),
        ({"If-Match": '"x"'}, 200),
        ({"If-Modified-Since": "Sat, 28 Nov 2099 00:00:00 GMT"}, 200),
    ],
)
def test_a_condition_is_of_the_tag_alone(site: Site, headers: dict[str, str], status: int) -> None:
    tag = site.ask("GET", "/v1/pictures/0/original").headers["etag"]
    said = {name: value.replace("TAG", tag) for name, value in headers.items()}
    found = site.ask("GET", "/v1/pictures/0/original", b"", **said)
    assert found.status == status
    is_harmless(found)
    assert (found.body == b"") == (status == 304)


def test_the_name_of_a_file_is_no_header_of_its_own(site: Site) -> None:
    names = set()
    for row in range(5):
        found = site.ask("GET", f"/v1/pictures/{row}/original")
        assert found.status == 200
        is_harmless(found)
        names.add(found.headers["content-disposition"])
        assert found.headers["content-disposition"].startswith("attachment; ")
        assert found.headers["content-type"] == "image/png"
    assert any("%0D%0ASet-Cookie" in name for name in names)


def _bombs() -> dict[str, tuple[bytes, set[int]]]:
    from hazards import bombs

    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.png", bytes(20_000_000))
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="99999" height="99999"><script>alert(1)</script></svg>'
    xml = b'<!DOCTYPE x [<!ENTITY a "' + b"a" * 1000 + b'"><!ENTITY b "' + b"&a;" * 1000 + b'">]><svg>&b;</svg>'
    avif = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\0\0\0\x40meta" + b"\xff" * 56
    found = {
        each.name: (each.data, {422}) for each in bombs() if "claims" in each.name or each.name.startswith("20k")
    }
    small = {name: one for name, one in found.items() if len(one[0]) < 1 << 20 and "13k" not in name}
    return small | {
        "a.zip": (zipped.getvalue(), {422}),
        "a.svg": (svg, {422}),
        "entities.svg": (xml, {422}),
        "a.avif": (avif, {422}),
        "a.gz": (b"\x1f\x8b\x08\x00" + bytes(1000), {422}),
        "a.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n(%pipe%id) (w) file\n", {422}),
        "a.html": (b"<!doctype html><script>alert(1)</script>", {422}),
    }


def test_pictures_that_unpack_to_very_much_are_refused_wherever_pictures_are_taken(lan: Site) -> None:
    for name, (data, statuses) in _bombs().items():
        text = base64.b64encode(data).decode()
        for answer in (
            lan.ask("PUT", "/v1/items/bomb", data, **_AUTH, Content_Type="image/png"),
            lan.ask("POST", "/v1/search", form(("; name=image; filename=x.png", data)), **_FORM),
            lan.ask("POST", "/v1/classify", json.dumps({"labels": ["a"], "image": text}).encode(), **_JSON),
        ):
            assert answer.status in statuses, (name, answer)
            is_harmless(answer)
            assert answer.json["type"] == "urn:clipdex:ImageError", (name, answer)
    assert lan.ask("GET", "/v1/items/bomb", b"", **_AUTH).status == 404


# Conditions, and what they must not bring back


@pytest.mark.parametrize(
    "where",
    ["1 --", "1 -- ) AND row < 0", "width > 0 OR 1 --", "1 /* x */", "meta ->> 'title' = 'gone' OR 1", "1 or(1)"],
)
def test_no_condition_brings_back_what_was_removed(site: Site, where: str) -> None:
    found = site.ask(
        "POST", "/v1/search", json.dumps({"row": 0, "where": where}).encode(), Content_Type="application/json"
    )
    assert found.status == 200, found
    names = {hit["name"] for hit in found.json["hits"]}
    assert len(names) == 5 and "removed" not in names
    is_harmless(found)
    counted = site.ask("GET", "/v1/facets?by=meta.title&where=1%20--")
    assert b"gone" not in counted.body


def test_a_condition_over_long_texts_ends(site: Site) -> None:
    for where in (
        "'" + "a" * 4000 + "' LIKE '" + "%a" * 499 + "b'",
        "'" + "a" * 4000 + "' GLOB '" + "*[a-b]" * 150 + "*c'",
        "name LIKE '" + "%a%_" * 240 + "'",
    ):
        body = json.dumps({"row": 0, "where": where}).encode()
        found = site.ask("POST", "/v1/search", body, Content_Type="application/json")
        assert found.status in (200, 422) and (found.status == 422 or found.json["hits"] == [])


# The page


@pytest.mark.parametrize(
    "query",
    [
        "text=%3C/title%3E%3Cimg%20src=x%20onerror=alert(1)%3E",
        "text=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "text='onfocus=alert(1)%20autofocus='",
        "text=%7B%7B7*7%7D%7D",
        "text=%3Csvg/onload=alert(1)%3E",
        "index=%3Cimg%20src=x%20onerror=alert(1)%3E",
        "part=1~text~%3Cimg%20src=x%20onerror=alert(1)%3E",
        "part=1~id~%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "part=1~row~0.%22%3E%3Cscript%3Ealert(1)",
        "part=1~row~999999999999999999999",
        "part=NaN~text~a&part=1e999~text~a",
        "where=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&text=a",
        "view=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "offset=%22%3E%3Cscript%3E&group=%22%3E%3Cscript%3E&min_score=%22%3E%3Cscript%3E",
        "text=%00",
        "text=%ED%A0%80&part=1~text~%FF",
        "%3Cscript%3Ealert(1)%3C/script%3E=1",
        "offset=" + "9" * 400,
        "min_score=1e400&offset=-1",
        "text=a&where=1&where=1%20--",
    ],
)
def test_the_page_has_no_markup_of_others(site: Site, query: str) -> None:
    found = site.ask("GET", f"/?{query}", Accept="text/html")
    assert found.status in (200, 400, 422, 404), found
    is_harmless(found)
    page = found.body.decode()
    assert page.count("<script") <= 2 and "onerror=alert(1)>" not in page.replace("&gt;", "")
    assert "49" not in found.body.decode() if "7*7" in query else True


def test_the_page_shows_names_and_ids_with_markup_as_text(site: Site) -> None:
    page = site.ask("GET", "/", Accept="text/html").body.decode()
    assert "&lt;img src=x onerror=alert(1)" in page and "&lt;/script&gt;&lt;script&gt;" in page
    assert page.count("<script") == 2 and "<img src=x" not in page and "secret" not in page


@pytest.mark.parametrize(
    "target",
    [
        "/v1/info", "/v1/items", "/v1/columns", "/v1/facets?by=name", "/v1/duplicates?kind=exact",
        "/v1/failures", "/metrics", "/v1/openapi.json", "/readyz", "/healthz", "/v1/models",
        "/v1/search?text=a", "/v1/similar?row=0",
        "/v1/pictures/0", "/v1/pictures/0/thumbnail", "/v1/pictures/5/thumbnail", "/static/main.js",
        "/login?next=/", "/v1/facets?by=meta.path", "/v1/facets?by=id", "/v1/facets?by=modified",
    ],
)  # fmt: skip
def test_no_answer_says_where_the_pictures_are(site: Site, target: str) -> None:
    found = site.ask("GET", target)
    assert found.status in (200, 202, 303, 404, 422, 503), found
    is_harmless(found)


def test_a_file_that_is_gone_is_told_without_its_folder(site: Site) -> None:
    moved = site.folder / "secretalbum" / "2.png"
    data = moved.read_bytes()
    row = next(each["row"] for each in site.ask("GET", "/v1/items").json["items"] if each["name"] == "2.png")
    moved.unlink()
    try:
        for what in ("original", "thumbnail?side=640"):
            found = site.ask("GET", f"/v1/pictures/{row}/{what}")
            assert found.status == 404
            is_harmless(found)
        moved.mkdir()
        assert site.ask("GET", f"/v1/pictures/{row}/original").status == 404
        moved.rmdir()
        moved.symlink_to("/etc/passwd")
        for what in ("original", "thumbnail?side=640"):
            found = site.ask("GET", f"/v1/pictures/{row}/{what}")
            assert found.status == 404
            is_harmless(found)
    finally:
        if moved.is_symlink():
            moved.unlink()
        moved.write_bytes(data)


# Load


def test_at_the_limit_requests_are_told_to_come_again_and_then_are_answered(indexes: dict[str, Path]) -> None:
    """More requests at once than are answered at once, whose bodies wait."""
    head = _POST + b"Content-Length: 10\r\nConnection: close\r\n\r\n"
    with serving(settings_of(indexes["plain"], max_concurrent=2, body_timeout_s=20.0)) as port:
        busy = Site(port, indexes["plain"])
        waiting = []
        for _ in range(30):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.settimeout(10)
            connection.sendall(head.replace(b"HOST", busy.host))
            waiting.append(connection)
        refused = []
        for connection in waiting[2:]:
            got = b""
            while data := connection.recv(65536):
                got += data
            refused += answers(got)[0]
        assert {each.status for each in refused} == {503} and len(refused) == 28
        assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        is_harmless(refused[0])
        assert busy.ask("GET", "/healthz").status == 200, "health is answered all the while"
        for connection in waiting[:2]:
            connection.sendall(_BODY)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        for connection in waiting:
            connection.close()
        assert [busy.ask("GET", "/v1/info").status for _ in range(5)] == [200] * 5


def test_connections_beyond_the_most_are_told_and_then_closed(
    indexes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipdex.web import running

    monkeypatch.setattr(running, "_MOST_CONNECTIONS", 5)
    monkeypatch.setattr(running, "_SPARE_CONNECTIONS", 5)
    monkeypatch.setattr(running, "_TELLING_S", 0.3)
    with serving(settings_of(indexes["plain"])) as port:
        full = Site(port, indexes["plain"])
        held = []
        for _ in range(10):
            held.append(socket.create_connection(("127.0.0.1", port)))
            held[-1].settimeout(10)
        held[-1].sendall((_GET + b"\r\n").replace(b"HOST", full.host))
        got = b""
        while data := held[-1].recv(65536):
            got += data
        (answer,), _ = answers(got)
        assert answer.status == 503 and answer.headers["retry-after"] == "1"
        is_harmless(answer)
        assert held[-2].recv(1) == b"", "one that says nothing is closed soon"
        first = (
            socket.create_connection(("127.0.0.1", port)),
            [socket.create_connection(("127.0.0.1", port)) for _ in range(30)],
        )
        first[1][-1].settimeout(10)
        with contextlib.suppress(ConnectionError):
            assert first[1][-1].recv(1) == b""
        for connection in (*held, first[0], *first[1]):
            connection.close()
        for _ in range(50):
            found, _ = full.sent(_GET + b"Connection: close\r\n\r\n")
            if found and found[0].status == 200:
                break
        else:
            pytest.fail("it did not recover")


def _one_answer(connection: socket.socket) -> Answer:
    connection.settimeout(10)
    got = b""
    while not answers(got)[0]:
        got += connection.recv(65536)
    (answer,), rest = answers(got)
    assert not rest
    return answer


def _is_closed(connection: socket.socket, within_s: float) -> bool:
    connection.settimeout(within_s)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("rest", [b"1", b"12345678", b""], ids=["a part", "the whole", "nothing"])
def test_a_body_that_was_answered_before_it_came_holds_no_connection(
    indexes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    """It needs no token: a thousand of them would be all that the server has."""
    from clipdex.web import running

    monkeypatch.setattr(running, "_HEAD_S", 0.2)
    monkeypatch.setattr(running, "_KEEP_ALIVE_S", 1)
    with serving(settings_of(indexes["plain"], token=TOKEN)) as port:
        head = b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 8\r\n\r\n" % port
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head)
            assert _one_answer(connection).status == 401
            connection.sendall(rest)
            assert _is_closed(connection, 4.0)
        with socket.create_connection(("127.0.0.1", port)) as connection:  # one of good will asks on
            for _ in range(3):
                connection.sendall(head)
                assert _one_answer(connection).status == 401
                connection.sendall(b"12345678")
                time.sleep(0.05)


@pytest.mark.parametrize("asked", [1_000_000, 40], ids=["more than is answered", "less than stops the answers"])
def test_one_that_asks_without_a_token_and_reads_nothing_loses_its_connection(
    indexes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    from clipdex.web import running

    held: set[Any] = set()
    seen: list[Any] = []
    made, lost = running._Protocol.connection_made, running._Protocol.connection_lost

    def noted(self: Any, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        held.add(self)
        seen.append(self)
        made(self, transport)

    def gone(self: Any, exc: Exception | None) -> None:
        held.discard(self)
        lost(self, exc)

    monkeypatch.setattr(running._Protocol, "connection_made", noted)
    monkeypatch.setattr(running._Protocol, "connection_lost", gone)
    monkeypatch.setattr(running, "_READ_S", 0.5)
    monkeypatch.setattr(running, "_KEEP_ALIVE_S", 1)
    with serving(settings_of(indexes["plain"], token=TOKEN)) as port:
        request = b"GET /v1/info HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % port
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", port))
            connection.settimeout(0.5)
            with contextlib.suppress(TimeoutError, ConnectionError):
                for _ in range(asked // 20):
                    connection.sendall(20 * request)
            wait_until(lambda: bool(seen), 5)
            wait_until(lambda: not held, 6)


@pytest.mark.slow
def test_a_reader_that_reads_nothing_loses_its_connection(indexes: dict[str, Path], folder: Path) -> None:
    """It asks for a picture larger than the buffers between, and then waits."""
    from PIL import Image

    pictures = folder / "secretalbum-large"
    pictures.mkdir()
    Image.new("RGB", (2400, 2400), "red").save(pictures / "large.bmp")
    with clipdex.Client(FakeTransport()) as client:
        clipdex.index_pictures(client, pictures, folder / "large.clipdex", workers=1)
    settings = settings_of(folder / "large.clipdex", body_timeout_s=0.5, request_timeout_s=5.0)
    with serving(settings) as port:
        site = Site(port, folder)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", port))
            connection.settimeout(10)
            connection.sendall(b"GET /v1/pictures/0/original HTTP/1.1\r\nHost: %b\r\n\r\n" % site.host)
            head = connection.recv(4096)
            time.sleep(1.2)
            got = len(head)
            try:
                while data := connection.recv(1 << 20):
                    got += len(data)
            except ConnectionError:
                pass
        assert got < 17_000_000, "what is left is not sent any more"
        assert site.ask("GET", "/v1/info").status == 200


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_is_bounded_whatever_the_bodies_are(lan: Site) -> None:
    """Each body is three megabytes and would be hundreds as objects, or as errors of each of its values."""
    bodies = [
        b"[" + b"1," * 1_400_000 + b"1]",
        b'[{"id": "a", "vector": [' + b"[]," * 800_000 + b"1]}]",
        b"[{" + b",".join(b'"%x":[]' % i for i in range(200_000)) + b"}]",
        b"[" + b"{}," * 1_000_000 + b"1]",
    ]
    for body in bodies[:2]:
        lan.ask("POST", "/v1/items", body, **_JSON)
    before = _resident_bytes()
    peak = before
    for body in bodies:
        for _ in range(2):
            assert lan.ask("POST", "/v1/items", body, **_JSON).status == 422
            peak = max(peak, _resident_bytes())
    assert peak - before < 300 << 20, f"{(peak - before) >> 20} MiB more"
