"""The guard before the routes: host, origin, token, size, time, load and headers, over small applications."""

from __future__ import annotations

import asyncio
import logging
import re
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from clipdex.base.errors import InvalidArgument
from clipdex.web import WebSettings, create_app
from clipdex.web.guard import access, bodies, check, guarded, load
from clipdex.web.guard.load import Buckets, client_of

TOKEN = "a-token-of-some-length"
LAN = "192.168.1.5"


def settings(**given: Any) -> WebSettings:
    return WebSettings(indexes=(), **given)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the length of the body."""
    body = await Request(scope, receive).body()
    await JSONResponse({"bytes": len(body)})(scope, receive, send)


class Settled(asyncio.SelectorEventLoop):
    """An event loop whose time passes by waiting alone, and at once: how busy the machine is changes nothing.

    For what waits for no thread and no other process.
    """

    def __init__(self) -> None:
        self._now = 1000.0
        selector = selectors.DefaultSelector()
        select = selector.select

        def selected(timeout: float | None = None) -> Any:
            self._now += timeout or 0.0
            return select(None if timeout is None else 0)

        selector.select = selected  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self._now


def run_without_waiting(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=Settled) as runner:
        return runner.run(work)


@pytest.fixture
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no client's bucket fill again while it is tested."""
    monkeypatch.setattr(load, "time", SimpleNamespace(monotonic=lambda: 1000.0))


def ask(
    steps: Callable[[httpx.AsyncClient], Awaitable[Any]],
    app: Any = echo,
    base: str = "http://127.0.0.1:8080",
    client: str = "127.0.0.1",
    **given: Any,
) -> Any:
    """Run steps with a client of an application behind the guard."""

    async def run() -> Any:
        transport = httpx.ASGITransport(guarded(app, settings(**given)), client=(client, 5))
        async with httpx.AsyncClient(transport=transport, base_url=base) as asking:
            return await steps(asking)

    return run_without_waiting(run())


def get(path: str = "/v1/info", *, base: str = "http://127.0.0.1:8080", app: Any = echo, **given: Any) -> Any:
    headers = given.pop("headers", {})
    method = given.pop("method", "GET")
    content = given.pop("content", None)
    return ask(lambda c: c.request(method, path, headers=headers, content=content), app, base, **given)


def is_problem(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert found["instance"] == "urn:request:" + answer.headers["x-request-id"]
    assert found["type"].startswith("urn:clipdex:")
    return str(found["detail"])


# Hosts and origins


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:1",
        "localhost.:8080",
        "127.0.0.1",
        "127.8.9.1:80",
        "[::1]:8080",
        "[::ffff:127.0.0.1]",
    ],
)
def test_a_loopback_name_reaches_a_server_on_loopback(host):
    assert get(headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:8080", 421),
        ("192.168.1.5", 421),
        ("0.0.0.0:8080", 421),
        ("127.1", 421),
        ("2130706433", 421),
        ("localhost..", 421),
        ("xn--lcalhost-54a", 421),
        ("", 400),
        ("user@127.0.0.1", 400),
        ("127.0.0.1:99999", 400),
        ("127.0.0.1:80:80", 400),
        ("127.0.0.1, evil.example", 400),
        ("127.0.0.1/..", 400),
        ("[::1", 400),
        ("[::1%25lo]", 400),
        ("[1.2]", 400),
    ],
)
def test_any_other_host_is_refused(host, status):
    is_problem(get(headers={"host": host}), status)


def test_two_hosts_and_no_host_are_refused():
    async def bare(c: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        two = await c.get("/", headers=[("host", "127.0.0.1"), ("host", "evil.example")])
        request = c.build_request("GET", "/")
        del request.headers["host"]
        return two, await c.send(request)

    two, none = ask(bare)
    is_problem(two, 400)
    assert "no header Host" in is_problem(none, 400)


def test_a_forwarded_host_is_not_believed():
    assert get(headers={"x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}).status_code == 200
    assert get(headers={"host": "evil.example", "x-forwarded-host": "127.0.0.1"}).status_code == 421


def test_names_that_are_allowed_reach_it_and_numbers_do_where_it_is_bound_to_all():
    lan: dict[str, Any] = {"token": TOKEN, "headers": {"authorization": f"Bearer {TOKEN}"}}
    named = {"host": LAN, "allowed_hosts": ("Bilder.example", "büro.example"), **lan}
    for base, status in {
        f"http://{LAN}:1": 200,
        "http://bilder.example": 200,
        "http://xn--bro-hoa.example": 200,
        "http://127.0.0.1": 200,
        "http://192.168.1.6": 421,
        "http://other.example": 421,
    }.items():
        assert get(base=base, **named).status_code == status, base
    for base, status in {
        "http://192.168.1.6": 200,
        "http://[fd00::1]:80": 200,
        "http://0.0.0.0": 421,
        "http://a.example": 421,
    }.items():
        assert get(base=base, host="0.0.0.0", **lan).status_code == status, base


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1:9",
        "http://localhost:8080",
        "http://127.0.0.1:8080.evil.example",
        "http://evil@127.0.0.1:8080",
        "file://127.0.0.1:8080",
        "chrome-extension://127.0.0.1:8080",
        "127.0.0.1:8080",
        "",
        "http://127.0.0.1:8080 https://evil.example",
    ],
)
def test_a_page_of_another_origin_is_refused_for_every_method(method, origin):
    is_problem(get(method=method, headers={"origin": origin}), 403)


def test_our_own_pages_and_clients_that_are_no_browsers_pass():
    for method in ("GET", "POST"):
        assert get(method=method).status_code == 200
        for headers in (
            {"origin": "http://127.0.0.1:8080", "sec-fetch-site": "same-origin"},
            {"origin": "null", "sec-fetch-site": "same-origin"},
            {"referer": "http://127.0.0.1:8080/?q=a"},
            {"host": "localhost", "origin": "http://LOCALHOST:80"},
            {"host": "localhost", "origin": "https://localhost"},  # a proxy speaks TLS
        ):
            assert get(method=method, headers=headers).status_code == 200, headers


def test_where_a_change_has_no_origin_its_referer_is_of_ours():
    foreign = {"referer": "https://evil.example/page"}
    assert get(headers=foreign).status_code == 200
    is_problem(get(method="POST", headers=foreign), 403)


def test_a_page_that_was_loaded_encrypted_accepts_no_page_that_was_not():
    base = "https://127.0.0.1"
    assert get(base=base, headers={"origin": "https://127.0.0.1"}).status_code == 200
    assert get(base=base, headers={"origin": "http://127.0.0.1:443"}).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_other_sites_load_nothing_but_open_the_page(site):
    def visit(path: str, mode: str = "navigate", dest: str = "document", **more: Any) -> int:
        headers = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        return int(get(path, headers=headers, **more).status_code)

    assert visit("/") == visit("/?q=dog") == 200
    assert visit("/v1/search?text=a") == 403
    assert visit("/", mode="no-cors", dest="image") == 403
    assert visit("/", dest="iframe") == 403
    assert visit("/", method="POST") == 403


def test_no_answer_lets_another_origin_read_it():
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for answer in (get(method="OPTIONS", headers=preflight), get(headers={"origin": "http://127.0.0.1:8080"})):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_websocket_is_closed_before_it_opens():
    sent = []

    async def run() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/", "headers": [(b"host", b"127.0.0.1")]}
        await guarded(echo, settings())(scope, receive, send)

    run_without_waiting(run())
    assert [each["type"] for each in sent] == ["websocket.close"]


# Access


@pytest.fixture
def lan() -> dict[str, Any]:
    return {"base": f"http://{LAN}:8080", "host": LAN, "token": TOKEN}


def test_without_the_token_only_healthz_answers(lan):
    async def steps(c: httpx.AsyncClient) -> None:
        assert (await c.get("/healthz")).status_code == 200
        for path in (
            "/",
            "/v1/info",
            "/readyz",
            "/metrics",
            "/healthz/",
            "//healthz",
            "/v1/../healthz",
            "/HEALTHZ",
        ):
            answer = await c.get(path)
            if answer.status_code != 200 or answer.request.url.raw_path != b"/healthz":
                assert "Bearer" in is_problem(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer"

    ask(steps, **lan)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xff",
    ],
)
def test_a_wrong_token_is_refused(lan, given):
    is_problem(get(headers={"authorization": given.encode("latin-1")}, **lan), 401)


def test_the_token_opens_and_two_of_them_do_not(lan):
    assert get(headers={"authorization": f"bearer {TOKEN}"}, **lan).status_code == 200
    assert get(headers=[("authorization", f"Bearer {TOKEN}")] * 2, **lan).status_code == 400


@pytest.mark.parametrize("query", [f"token={TOKEN}", "a=1&TOKEN=x", "access_token=x", "%74oken=x"])
def test_a_token_in_an_address_is_refused_with_a_sentence(lan, query):
    nothing: dict[str, Any] = {}
    for given in (lan, nothing):
        answer = get(f"/v1/info?{query}", headers={"authorization": f"Bearer {TOKEN}"}, **given)
        assert "Authorization" in is_problem(answer, 400)
        assert TOKEN not in answer.text


def test_a_browser_is_sent_to_the_form_signs_in_and_out(lan):
    async def steps(c: httpx.AsyncClient) -> None:
        sent = await c.get("/?q=a%20dog&x=1", headers={"accept": "text/html,*/*"})
        assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=/%3Fq%3Da%2520dog%26x%3D1")
        form = await c.get(sent.headers["location"])
        assert form.status_code == 200
        assert 'value="/?q=a%20dog&amp;x=1"' in form.text
        assert "<script" not in form.text and "style" not in form.text
        assert form.headers["referrer-policy"] == "same-origin"  # else the form's Origin would be `null`
        target = {"next": "/?q=a%20dog&x=1"}
        wrong = await c.post("/login", data={"token": "<wrong>", **target})
        assert wrong.status_code == 401 and "wrong" in wrong.text and "set-cookie" not in wrong.headers
        assert "&lt;wrong" not in wrong.text and "<wrong" not in wrong.text
        entered = await c.post("/login", data={"token": TOKEN, **target})
        assert (entered.status_code, entered.headers["location"]) == (303, "/?q=a%20dog&x=1")
        cookie = entered.headers["set-cookie"]
        for part in ("HttpOnly", "SameSite=strict", "Path=/"):
            assert part in cookie
        assert "Secure" not in cookie and TOKEN not in cookie
        assert (await c.get("/v1/info")).status_code == 200
        origin = {"origin": f"http://{LAN}:8080"}
        assert (await c.post("/v1/items", headers=origin)).status_code == 200
        assert "Origin" in is_problem(await c.post("/v1/items"), 403)
        kept = c.cookies[access.COOKIE]
        assert (await c.get("/logout")).status_code == 405
        out = await c.post("/logout", headers=origin)
        assert out.status_code == 303 and "Max-Age=0" in out.headers["set-cookie"]
        c.cookies.clear()
        is_problem(await c.get("/v1/info", headers={"cookie": f"{access.COOKIE}={kept}"}), 401)

    ask(steps, **lan)


def test_the_cookie_is_only_for_encrypted_connections_where_the_page_came_by_one(lan):
    async def steps(c: httpx.AsyncClient) -> str:
        answer = await c.post("/login", data={"token": TOKEN}, headers={"origin": f"{c.base_url}".rstrip("/")})
        assert answer.status_code == 303
        return str(answer.headers["set-cookie"])

    assert "Secure" in ask(steps, **lan | {"base": f"https://{LAN}:8080"})
    assert "Secure" not in ask(steps, **lan)

    async def behind_a_proxy(c: httpx.AsyncClient) -> str:
        answer = await c.post("/login", data={"token": TOKEN}, headers={"host": LAN, "origin": f"https://{LAN}"})
        return str(answer.headers["set-cookie"])

    assert "Secure" in ask(behind_a_proxy, **lan)


def test_a_session_cookie_cannot_be_changed_or_outlive_its_time(monkeypatch):
    sessions = access.Sessions(b"key")
    value = sessions.begin()
    expiry, nonce, signature = value.split(".")
    assert sessions.holds(value)
    assert not access.Sessions(b"other key").holds(value)
    for changed in (
        "",
        ".",
        "..",
        "x",
        value[:-1],
        value + "0",
        f"{int(expiry) + 1}.{nonce}.{signature}",
        f"{expiry}.{nonce[:-1]}0.{signature}" if nonce[-1] != "0" else f"{expiry}.{nonce[:-1]}1.{signature}",
        f"{expiry}.{nonce}.",
        f"{expiry}.{nonce}.é",
        f"{expiry}..{signature}",
        value * 100,
    ):
        assert not sessions.holds(changed), changed
    monkeypatch.setattr("clipdex.web.guard.access.time.time", lambda: int(expiry) + 1)
    assert not sessions.holds(value)


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "evil.example",
        "",
        "/\t/evil.example",
        "/a\r\nSet-Cookie: x=1",
        "/a\\b",
        " /",
        "/\x00",
        "/\x85",
        "/" + "a" * 5000,
        "/login?next=/login",
    ],
)
def test_signing_in_leads_to_no_other_site(lan, target):
    async def steps(c: httpx.AsyncClient) -> None:
        answer = await c.post("/login", data={"token": TOKEN, "next": target})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        form = await c.get("/login", params={"next": target[:1000]})
        assert form.status_code != 200 or 'value="/"' in form.text or target.startswith("/" + "a" * 100)

    ask(steps, **lan)


def test_a_next_with_markup_is_escaped_in_the_form(lan):
    text = get('/login?next=/"><img/src=x>', **lan).text
    assert "<img" not in text and "&quot;&gt;&lt;img" in text


@pytest.mark.usefixtures("no_time_passes")
def test_who_is_wrong_too_often_waits_and_others_do_not(lan):
    app = guarded(echo, settings(host=LAN, token=TOKEN))

    async def run() -> None:
        def client(address: str) -> httpx.AsyncClient:
            return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url=lan["base"])

        async with client("10.0.0.1") as guessing, client("10.0.0.2") as other:
            right = {"authorization": f"Bearer {TOKEN}"}
            entered = await guessing.post("/login", data={"token": TOKEN})
            found = [
                (await guessing.get("/v1/info", headers={"authorization": f"Bearer {n:020}", "cookie": ""}))
                for n in range(12)
            ]
            assert [each.status_code for each in found] == [401] * 10 + [429] * 2
            assert int(found[-1].headers["retry-after"]) > 0
            assert (await guessing.post("/login", data={"token": TOKEN})).status_code == 429
            assert entered.status_code == 303 and (await guessing.get("/v1/info")).status_code == 200  # the cookie
            assert (await other.get("/v1/info", headers=right)).status_code == 200

    run_without_waiting(run())


def test_where_there_is_no_token_the_form_leads_to_the_page():
    answer = get("/login?next=/%3Fq%3Da")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?q=a")


def test_the_form_is_no_json_and_not_large(lan):
    assert (
        get("/login", method="POST", content=b"{}", headers={"content-type": "text/plain"}, **lan).status_code
        == 415
    )
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert get("/login", method="POST", content=b"a" * 9000, headers=form, **lan).status_code == 413
    assert get("/login", method="POST", content=b"a=1&" * 50, headers=form, **lan).status_code == 400
    assert get("/login", method="POST", content=b"\xff", headers=form, **lan).status_code == 400
    assert get("/login", method="PUT", **lan).status_code == 405


# Settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"host": "0.0.0.0"}, "token"),
        ({"host": "::"}, "token"),
        ({"host": "example.org"}, "token"),
        ({"host": "example.org", "token": "short"}, "16 to 512"),
        ({"token": "with a space in the middle"}, "16 to 512"),
        ({"token": "umlauts-äöü-umlauts"}, "16 to 512"),
        ({"token": ""}, "16 to 512"),
        ({"allowed_hosts": ("https://example.org",)}, "host name"),
        ({"allowed_hosts": ("example.org:80",)}, "host name"),
        ({"allowed_hosts": ("*.example.org",)}, "host name"),
        ({"allowed_hosts": ("a..b" * 30 + "ä",)}, "name"),
        ({"host": ""}, "host name"),
        ({"max_concurrent": 0}, "max_concurrent"),
        ({"max_json_bytes": 1.5}, "max_json_bytes"),
        ({"max_upload_bytes": True}, "max_upload_bytes"),
        ({"body_timeout_s": 0}, "body_timeout_s"),
        ({"request_timeout_s": float("nan")}, "request_timeout_s"),
        ({"requests_per_s": -1}, "requests_per_s"),
    ],
)
def test_settings_that_are_unsafe_or_make_no_sense_are_refused(given, words):
    with pytest.raises(InvalidArgument, match=words):
        create_app(settings(**given))


def test_settings_that_are_safe_are_taken():
    for given in (
        {},
        {"host": "localhost"},
        {"host": "::1"},
        {"host": "0.0.0.0", "token": TOKEN},
        {"allowed_hosts": ("büro.example", "a-b.example.", "10.0.0.1")},
    ):
        check(settings(**given))


# Bodies


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read():
    reached = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])
        await echo(scope, receive, send)

    answer = get("/v1/search", method="POST", headers={"content-length": "101"}, app=app, max_json_bytes=100)
    assert "100 bytes" in is_problem(answer, 413)
    assert not reached


async def pieces(count: int, size: int, pause_s: float = 0.0) -> Any:
    for _ in range(count):
        await asyncio.sleep(pause_s)
        yield b"x" * size


def test_a_body_without_a_length_is_counted_as_it_comes():
    async def steps(c: httpx.AsyncClient) -> None:
        assert (await c.post("/v1/search", content=pieces(10, 10))).json() == {"bytes": 100}
        is_problem(await c.post("/v1/search", content=pieces(11, 10)), 413)

    ask(steps, max_json_bytes=100)


def test_what_a_route_makes_of_a_body_cut_short_is_not_the_answer():
    async def careless(scope: Any, receive: Any, send: Any) -> None:
        try:
            await Request(scope, receive).body()
        except Exception:
            await PlainTextResponse("cannot be read", 400)(scope, receive, send)

    async def steps(c: httpx.AsyncClient) -> None:
        is_problem(await c.post("/v1/search", content=pieces(11, 10)), 413)

    ask(steps, careless, max_json_bytes=100)


def test_a_body_that_comes_too_slowly_is_ended():
    async def steps(c: httpx.AsyncClient) -> None:
        is_problem(await c.post("/v1/search", content=pieces(100, 1, 0.02)), 408)

    ask(steps, body_timeout_s=0.1)


@pytest.mark.parametrize(
    ("method", "path", "kind", "most"),
    [
        ("POST", "/v1/search", "application/json", 100),
        ("POST", "/v1/search", "multipart/form-data; boundary=x", 1000 + bodies._FORM_BYTES),
        ("POST", "/v1/items", "application/json", 1000),
        ("POST", "/v1/items/remove", "application/json", 100),
        ("POST", "/v1/embeddings", "application/json", 1000),
        ("POST", "/v1/classify", "application/json", 1000),
        ("PUT", "/v1/items/a/b", "image/png", 1000),
        ("PATCH", "/v1/items/a", "application/json", 100),
        ("POST", "/anything", "image/png", 100),
        ("GET", "/v1/search", "application/json", bodies._NO_BODY_BYTES),
        ("DELETE", "/v1/items/a", "image/png", bodies._NO_BODY_BYTES),
    ],
)
def test_how_large_a_body_may_be_depends_on_the_route_and_its_kind(method, path, kind, most):
    async def steps(c: httpx.AsyncClient) -> None:
        for size, status in ((most, 200), (most + 1, 413)):
            answer = await c.request(method, path, content=b"x" * size, headers={"content-type": kind})
            assert answer.status_code == status

    ask(steps, max_json_bytes=100, max_upload_bytes=1000)


def test_many_large_bodies_at_once_are_refused_and_forgotten_afterwards():
    async def steps(c: httpx.AsyncClient) -> None:
        app_gate.clear()
        first = [asyncio.create_task(c.put("/v1/items/a", content=b"x" * size)) for _ in range(held)]
        await asyncio.sleep(0.05)
        is_problem(await c.put("/v1/items/b", content=b"x" * size), 503)
        app_gate.set()
        assert {(await each).status_code for each in first} == {200}
        assert (await c.put("/v1/items/b", content=b"x" * size)).status_code == 200

    app_gate = asyncio.Event()
    size, held = 1_000_000, 4

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        await app_gate.wait()
        await Response()(scope, receive, send)

    ask(steps, slow, max_upload_bytes=size, max_json_bytes=1)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "br"}, 415),
        ({"content-encoding": "identity"}, 200),
        ({"content-length": "5", "transfer-encoding": "chunked"}, 400),
        ({"content-length": "-1"}, 400),
        ({"content-length": "1e3"}, 400),
        ({"content-length": "0x10"}, 400),
        ({"content-length": "9" * 30}, 400),
        ({f"x-{n}": "" for n in range(130)}, 431),
        ({"x-long": "a" * 70_000}, 431),
    ],
)
def test_bodies_and_headers_that_can_be_read_in_two_ways_are_refused(headers, status):
    assert get(method="POST", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/items/" + "a" * 20_000, 414),
        ("/v1/search?text=" + "a" * 60_000, 414),
        ("/v1/items/%ff", 400),
        ("/v1/items/a%00b", 400),
        ("/v1/search?" + "a=1&" * 100, 400),
        ("/v1/items/%C3%A9%0A", 200),
    ],
)
def test_addresses_that_are_too_long_or_no_text_are_refused(path, status):
    assert get(path).status_code == status


# Headers


@pytest.mark.parametrize("status", [200, 404, 421, 500])
def test_every_answer_has_the_headers(status):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if status == 500:
            raise RuntimeError("/etc/secret " + TOKEN)
        await PlainTextResponse("x", status)(scope, receive, send)

    answer = get(app=app, headers={"host": "evil.example"} if status == 421 else {})
    assert answer.status_code == status
    wanted = {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: "
        "data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
        "x-frame-options": "DENY",
        "cache-control": "no-store",
    }
    assert {name: answer.headers[name] for name in wanted} == wanted
    assert "camera=()" in answer.headers["permissions-policy"]


def test_a_route_chooses_how_long_its_answer_is_kept():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Response(headers={"cache-control": "private, max-age=5"})(scope, receive, send)

    assert get(app=app).headers["cache-control"] == "private, max-age=5"
    assert get("/static/app.js").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-1.2_Z", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("<b>", False),
        ("a b", False),
        ("é", False),
    ],
)
def test_a_request_id_is_kept_if_it_is_short_and_plain(given, kept):
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"]["request_id"])
        await Response()(scope, receive, send)

    sent = get(app=app, headers={"x-request-id": given.encode()}).headers["x-request-id"]
    assert seen == [sent]
    assert sent == given if kept else re.fullmatch("[0-9a-f]{32}", sent)


def test_a_fault_is_told_without_its_words_and_logged_with_the_requests_id(caplog):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("/srv/private/file")

    with caplog.at_level(logging.ERROR, "clipdex.web"):
        answer = get("/v1/info?text=private", app=app, headers={"x-request-id": "r1"})
    assert "private" not in answer.text and "Traceback" not in answer.text
    assert "log" in is_problem(answer, 500)
    assert "r1" in caplog.messages[0] and "/v1/info" in caplog.messages[0] and "text=" not in caplog.text
    assert "/srv/private/file" in caplog.text


# Load


def test_more_requests_at_once_than_places_are_refused_and_health_and_thumbnails_are_not():
    async def steps(c: httpx.AsyncClient) -> None:
        waiting = [asyncio.create_task(c.get("/v1/search?text=a")) for _ in range(2)]
        await asyncio.sleep(0.05)
        busy = await c.get("/v1/info")
        is_problem(busy, 503)
        assert busy.headers["retry-after"] == "1"
        gate.set()
        for path in ("/healthz", "/readyz", "/metrics", "/v1/pictures/1/thumbnail", "/static/app.js"):
            assert (await c.get(path)).status_code == 200
        assert {(await each).status_code for each in waiting} == {200}
        assert (await c.get("/v1/info")).status_code == 200

    gate = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/search":
            await gate.wait()
        await Response()(scope, receive, send)

    ask(steps, app, max_concurrent=2)


def test_a_request_that_takes_too_long_is_withdrawn_and_leaves_its_place():
    ended = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(scope["path"])

    async def steps(c: httpx.AsyncClient) -> None:
        for _ in range(3):
            assert "0.05 s" in is_problem(await c.get("/v1/search"), 504)

    ask(steps, app, max_concurrent=1, request_timeout_s=0.05)
    assert len(ended) == 3


def test_a_long_answer_may_take_longer_than_its_begin():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await StreamingResponse(pieces(6, 1, 0.1))(scope, receive, send)

    # Each piece may take as long as the first; the other limit is for a reader.
    assert get(app=app, request_timeout_s=0.15, body_timeout_s=0.05).text == "x" * 6


def test_a_reader_that_stops_reading_loses_its_place():
    sent = []

    async def run() -> None:
        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message["type"])
            if message["type"] == "http.response.body":
                await asyncio.sleep(60)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("x")(scope, receive, send)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/pictures/1/original",
            "scheme": "http",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1")],
        }
        async with asyncio.timeout(5):
            await guarded(app, settings(body_timeout_s=0.05))(scope, receive, send)

    run_without_waiting(run())
    assert sent == ["http.response.start", "http.response.body"]


@pytest.mark.usefixtures("no_time_passes")
def test_a_client_that_asks_too_often_waits():
    async def steps(c: httpx.AsyncClient) -> None:
        found = [await c.get("/v1/info") for _ in range(5)]
        assert [each.status_code for each in found] == [200, 200, 200, 200, 429]
        assert found[-1].headers["retry-after"] == "1"
        assert (await c.get("/healthz")).status_code == 200

    ask(steps, requests_per_s=2.0)


def test_the_table_of_clients_is_bounded_and_fills_again(monkeypatch):

    now = [0.0]
    monkeypatch.setattr("clipdex.web.guard.load.time.monotonic", lambda: now[0])
    buckets = Buckets(per_s=1.0, burst=1.0, most=100)
    buckets.take("a")
    assert buckets.wait_s("a") == 1.0
    now[0] = 0.75
    assert buckets.wait_s("a") == 0.25
    for n in range(1000):
        buckets.take(str(n))
    assert len(buckets._left) == 100


def test_addresses_of_one_ipv6_network_are_one_client():
    def of(address: str) -> str:
        return client_of({"client": (address, 1)})

    assert of("2001:db8::1") == of("2001:db8::ffff:1") != of("2001:db8:0:1::1")
    assert of("10.0.0.1") != of("10.0.0.2")
    assert client_of({"client": None}) == ""
