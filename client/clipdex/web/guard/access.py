"""Access by token: sent in a header, or once in a form, after which a cookie stands for it.

The cookie's value is made of a key that only this process has, and says until when it holds; the token is in no
cookie and in no address.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import secrets
import time
from collections import OrderedDict
from html import escape
from urllib.parse import parse_qs, quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from clipdex.web.guard.load import Buckets, client_of
from clipdex.web.guard.requests import Refused, header, headers, refuse
from clipdex.web.settings import WebSettings

__all__ = ["COOKIE", "Access", "Sessions", "safe_next"]

COOKIE = "clipdex_session"
_SESSION_S = 7 * 24 * 3600
_MOST_ENDED = 10_000
_MOST_COOKIES = 8  # of our name; those of other paths and ports come too
_FAILURES_PER_S, _FAILURES_AT_ONCE = 0.2, 10.0
_OPEN = ("/healthz",)
_SAFE = ("GET", "HEAD", "OPTIONS")

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Sign in · clipdex</title>
</head>
<body>
<main>
<h1>Sign in</h1>
{said}<form method="post" action="/login">
<input type="hidden" name="next" value="{next}">
<p><label for="token">Token</label>
<input id="token" name="token" type="password" required autofocus autocomplete="current-password"></p>
<p><button>Sign in</button></p>
</form>
<p><a href="{next}">Continue, if you are signed in</a></p>
</main>
</body>
</html>
"""


class Sessions:
    """Sessions, as signed values of cookies: begun, checked and ended."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key or secrets.token_bytes(32)
        self._ended: OrderedDict[str, None] = OrderedDict()

    def begin(self) -> str:
        """Return the value of a new session's cookie."""
        said = f"{int(time.time()) + _SESSION_S}.{secrets.token_hex(8)}"
        return f"{said}.{self._signature(said)}"

    def holds(self, value: str) -> bool:
        """Whether a cookie's value is of a session that has begun here, and has not ended."""
        if len(value) > 200 or not value.isascii():
            return False
        said, _, signature = value.rpartition(".")
        if not hmac.compare_digest(signature, self._signature(said)):
            return False
        return int(said.partition(".")[0]) > time.time() and said not in self._ended

    def end(self, value: str) -> None:
        """End a session, wherever its cookie may be."""
        if self.holds(value):
            self._ended[value.rpartition(".")[0]] = None
            while len(self._ended) > _MOST_ENDED:
                self._ended.popitem(last=False)

    def _signature(self, said: str) -> str:
        return hmac.new(self._key, said.encode(), hashlib.sha256).hexdigest()


class Access:
    """Passes on requests that have the token or its cookie; all, if there is no token."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        self._token = None if settings.token is None else _digest(settings.token)
        self._sessions = Sessions()
        self._failures = Buckets(_FAILURES_PER_S, _FAILURES_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, answer it if it is about signing in, or pass it on."""
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        try:
            answer = await self._answer(scope, receive)
        except Refused as refused:
            await refuse(refused, scope, receive, send)
            return
        await (answer or self._app)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response | None:
        """Return what signs in or out, or sends to the form; None for what may pass.

        Raises:
            Refused: it may not.
        """
        path, method = scope["path"], scope["method"]
        if path in ("/login", "/logout"):
            request = Request(scope, receive)
            if self._token is None:
                return _sent_to(safe_next(request.query_params.get("next", "/")))
            if path == "/logout":
                return self._logout(request)
            if method == "POST":
                return await self._login(request)
            if method not in ("GET", "HEAD"):
                raise Refused(405, "expected GET or POST", Allow="GET, HEAD, POST")
            return _form(safe_next(request.query_params.get("next", "/")))
        if self._token is None or self._has_cookie(scope) or self._has_token(scope):
            return None
        if method in ("GET", "HEAD") and "text/html" in (header(scope, b"accept") or ""):
            query = scope["query_string"].decode("latin-1")
            asked = quote(path, safe="/") + (f"?{query}" if query else "")
            return _sent_to(f"/login?next={quote(safe_next(asked), safe='/')}")
        raise Refused(
            401,
            "this server needs its token, in the header  Authorization: Bearer TOKEN",
            WWW_Authenticate="Bearer",
        )

    def _has_cookie(self, scope: Scope) -> bool:
        if not any(map(self._sessions.holds, _cookies(scope))):
            return False
        if scope["method"] not in _SAFE and not (headers(scope, b"origin") or headers(scope, b"sec-fetch-site")):
            raise Refused(403, "a change by a client with a cookie needs the header Origin, which browsers send")
        return True

    def _has_token(self, scope: Scope) -> bool:
        given = header(scope, b"authorization")
        scheme, _, token = (given or "").partition(" ")
        return scheme.lower() == "bearer" and self._is_right(token.strip(), scope)

    def _is_right(self, token: str, scope: Scope) -> bool:
        """Whether a token is ours.

        Raises:
            Refused: this client has been wrong too often to be told.
        """
        client = client_of(scope)
        wait_s = self._failures.wait_s(client)
        if wait_s > 0:
            wait = str(math.ceil(wait_s))
            raise Refused(429, "too many wrong tokens from this client; try again later", Retry_After=wait)
        right = self._token is not None and hmac.compare_digest(_digest(token), self._token)
        if not right:
            self._failures.take(client)
        return right

    async def _login(self, request: Request) -> Response:
        kind = (header(request.scope, b"content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise Refused(415, "expected the form of /login, application/x-www-form-urlencoded")
        try:
            fields = parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=8)
        except ValueError as exc:
            raise Refused(400, "the form cannot be read; expected its fields token and next") from exc
        target = safe_next(fields.get("next", ["/"])[-1])
        if not self._is_right(fields.get("token", [""])[-1], request.scope):
            return _form(target, "The token is wrong.", status=401)
        answer = _sent_to(target)
        # Behind a proxy that speaks TLS for us, only the browser knows.
        https = request.scope["scheme"] == "https" or request.headers.get("origin", "").startswith("https:")
        _set_cookie(answer, self._sessions.begin(), _SESSION_S, https)
        return answer

    def _logout(self, request: Request) -> Response:
        if request.method != "POST":
            raise Refused(405, "expected POST", Allow="POST")
        for value in _cookies(request.scope):
            self._sessions.end(value)
        answer = _sent_to("/login")
        _set_cookie(answer, "", 0, False)
        return answer


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def _cookies(scope: Scope) -> list[str]:
    """Return the values of our cookie, of which a request may have several."""
    found = []
    for given in headers(scope, b"cookie"):
        for pair in given.split(";"):
            name, _, value = pair.strip().partition("=")
            if name == COOKIE:
                found.append(value)
    return found[:_MOST_COOKIES]


def _set_cookie(answer: Response, value: str, max_age_s: int, https: bool) -> None:
    answer.set_cookie(COOKIE, value, max_age=max_age_s, path="/", httponly=True, samesite="strict", secure=https)


def safe_next(target: str) -> str:
    """Return where to go after signing in: a path of ours, `/` for anything else."""
    if len(target) > 4096 or not re.fullmatch(r"/(?![/\\])[^\\\x00-\x20\x7f-\xa0]*", target):
        return "/"
    return "/" if target.startswith(("/login", "/logout")) else target


def _sent_to(target: str) -> Response:
    return Response(None, 303, {"Location": quote(target, safe="/?&=%#+:;,@!$'()*~-._")})


def _form(target: str, said: str = "", status: int = 200) -> Response:
    told = f'<p role="alert">{escape(said)}</p>\n' if said else ""
    page = _PAGE.format(said=told, next=escape(target, quote=True))
    # With `no-referrer`, browsers would send the form with an Origin that says nothing.
    return HTMLResponse(page, status, {"Referrer-Policy": "same-origin"})
