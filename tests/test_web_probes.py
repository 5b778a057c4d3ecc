"""Hostile requests of the whole application: none is a fault of ours, shows a path, or comes back as markup."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import noise, png

import clipdex
from clipdex import Collection, Item
from clipdex.wire import FakeTransport

pytest.importorskip("fastapi", reason="the REST API needs the extra web")
import httpx
from web_server import answering, settings_of

pytestmark = pytest.mark.slow

_XSS = "<img src=x onerror=alert(1)>"
_TRAVERSALS = (
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "..%5c..%5cetc%5cpasswd",
    "%2fetc%2fpasswd",
    "%252e%252e%252fetc%252fpasswd",
    "..%c0%af..%c0%afetc",
    "a%00.png",
    "%ef%bc%8e%ef%bc%8e/etc/passwd",
    "%e2%80%ae",
    "file:%2f%2f%2fetc%2fpasswd",
    "-1",
    "9" * 40,
    "NaN",
    "1e9",
    "%3Cimg%20src=x%20onerror=alert(1)%3E",
    "%0d%0aSet-Cookie:%20x=1",
    "'%20OR%201=1--",
    "__proto__",
)
_PLACES = (
    "/v1/items/{}",
    "/v1/pictures/{}",
    "/v1/pictures/{}/thumbnail",
    "/v1/pictures/{}/original",
    "/static/{}",
    "/v1/info?index={}",
    "/v1/similar?id={}",
    "/v1/similar?row={}",
    "/v1/search?text={}",
    "/v1/search?text=a&top_k={}",
)
_WHERE = (
    "1=1; ATTACH '/etc/passwd' AS x",
    "load_extension('x')",
    "(SELECT sql FROM sqlite_master)",
    "width > (SELECT 1)",
    "PRAGMA database_list",
    "path LIKE '/%'",
    "\"path\" LIKE '/%'",
    "readfile('/etc/passwd')",
    "writefile('x', 'y')",
    "width > 1 UNION SELECT 1",
    "randomblob(1000000000)",
    "zeroblob(2000000000)",
    "width > 1 /*",
    "a\0b",
    "(" * 900,
    _XSS,
)
_BODIES = (
    b"",
    b"[]",
    b"null",
    b"{",
    b"\xff\xfe",
    b'{"text": "\xff"}',
    b'{"text": "a", "text": "b"}',
    b'{"text": "\\ud800"}',
    b'{"text": "a", "top_k": 1e9}',
    b'{"text": "a", "top_k": NaN}',
    b'{"text": "a", "top_k": -1}',
    b'{"text": "a", "offset": 99999999999999999999999}',
    b'{"text": "a", "min_score": Infinity}',
    b'{"text": "a", "__proto__": {"x": 1}}',
    b'{"text": "a", "constructor": {}}',
    b'{"text": ["a"]}',
    b'{"row": -1}',
    b'{"row": 9223372036854775808}',
    b'{"vector": [1e999]}',
    b'{"vector": []}',
    b'{"image": "data:text/html,<script>"}',
    b'{"image": "file:///etc/passwd"}',
    b'{"image": "http://127.0.0.1/"}',
    b'{"image": "AAAA"}',
    b'{"id": "../../etc/passwd"}',
    b"[" * 100_000,
    b'{"a":' * 5_000,
    b'{"parts": []}',
    b'{"text": "a", "params": {"x": {"y": 1}}}',
    b'{"text": "%s"}' % _XSS.encode(),
)
_KINDS = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/html", "application/xml")
_FOREIGN: tuple[dict[str, str], ...] = (
    {"host": "evil.example"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "a@127.0.0.1"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"referer": "https://evil.example/"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    {"content-encoding": "gzip"},
    {"content-length": "-1"},
    {"content-length": "5", "transfer-encoding": "chunked"},
    {"content-length": "99999999999"},
)
_SAME: tuple[dict[str, str], ...] = (
    {"x-http-method-override": "DELETE"},
    {"x-forwarded-host": "evil.example"},
    {"x-request-id": _XSS},
    {"range": "bytes=" + "0-1," * 1000},
    {"range": "bytes=9999999999999999999-"},
    {"accept": _XSS},
    {"cookie": "clipdex_session=" + "a" * 1000},
    {"authorization": "Bearer " + _XSS},
)
_JSON = {"content-type": "application/json"}

# (method, address, headers, body, whether only a refusal will do)
PROBES: list[tuple[str, str, dict[str, str], bytes, bool]] = [
    *(("GET", place.format(bad), {}, b"", False) for place, bad in itertools.product(_PLACES, _TRAVERSALS)),
    *(("GET", str(httpx.URL("/v1/search", params={"text": "a", "where": w})), {}, b"", True) for w in _WHERE),
    ("GET", "/v1/search?text=a&where=width%3E1%20--", {}, b"", False),  # a comment is no harm
    *(("POST", "/v1/search", _JSON, body, _XSS.encode() not in body) for body in _BODIES),
    *(("POST", "/v1/items", _JSON, body, True) for body in _BODIES),
    *(("POST", "/v1/items/remove", {"content-type": kind}, b'{"ids": ["a"]}', True) for kind in _KINDS),
    *(("POST", "/v1/items/remove", _JSON | foreign, b'{"ids": ["a"]}', True) for foreign in _FOREIGN),
    *(("GET", "/v1/info", same, b"", False) for same in _SAME),
]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    place = tmp_path_factory.mktemp("probed")
    (place / "pictures").mkdir()
    noise(1).save(place / "pictures" / "1.png")
    with clipdex.Client(FakeTransport()) as client:
        clipdex.index_pictures(client, place / "pictures", place / "x.clipdex", workers=1)
        with Collection.open(place / "x.clipdex", client=client) as pets:
            pets.add([Item("a", png(100), metadata={"title": _XSS})])
    with answering(settings_of(place / "x.clipdex")) as asking:
        yield asking


def test_there_are_more_than_two_hundred_probes():
    assert len({repr(each) for each in PROBES}) > 200


@pytest.mark.parametrize(("method", "address", "headers", "body", "refused"), PROBES, ids=range(len(PROBES)))
def test_a_hostile_request_does_nothing(http, method, address, headers, body, refused):
    answer = http.request(method, address, headers=headers, content=body, follow_redirects=False)
    assert answer.status_code < 500, answer.text
    assert not refused or answer.status_code >= 400, answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert _XSS not in str(answer.headers)
    for path in (tempfile.gettempdir() + "/", str(Path(clipdex.__file__).parent), "root:x:0", "Traceback"):
        assert path not in answer.text
    if answer.headers.get("content-type", "").startswith("text/html"):
        assert _XSS not in answer.text
