"""Limits on a request's address, headers and body, and on the time that a body may take.

Content-Length is trusted only to refuse a request: the bytes are counted as they arrive.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipdex.web.guard.requests import Refused, header, headers, refuse
from clipdex.web.settings import WebSettings

__all__ = ["Bodies"]

_LONGEST_PATH = 16 << 10  # an id of 1,024 bytes, each written as %XX, and more
_LONGEST_QUERY = 48 << 10
_LARGEST_HEADERS, _MOST_HEADERS = 64 << 10, 128
_VERSIONS = ("1.0", "1.1", "2", "3")
_MOST_FIELDS = 64  # of a query
_FORM_BYTES = 64 << 10  # what a form has around its picture
_NO_BODY = ("GET", "HEAD", "DELETE", "OPTIONS")
_NO_BODY_BYTES = 4 << 10
_SMALL_FORM_BYTES = 8 << 10
_UPLOADS_AT_ONCE = 4  # so many of the largest are in memory at once
_LINGER_S = 2.0

# The routes whose JSON may have pictures or many vectors; a search sends a large picture as a form.
_BULKY = re.compile(r"/v1/(?:items(?:/.*)?|embeddings|classify)", re.DOTALL)
_SLIM = re.compile(r"/v1/items/remove")
_TOKENS = {"token", "access_token"}


class Bodies:
    """Refuses requests that are too large, too slow or ambiguous."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app, self._settings = app, settings
        self._held = 0  # bytes of the bodies that are being read or answered
        self._most_held = _UPLOADS_AT_ONCE * (
            max(settings.max_upload_bytes, settings.max_json_bytes) + _FORM_BYTES
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on with a body that is bounded in size and time."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            _check_address(scope)
            _check_headers(scope)
            most = self._most(scope)
            declared = _declared(scope)
            if declared is not None and declared > most:
                raise _too_large(most)
        except Refused as refused:
            await _refuse_early(refused, scope, receive, send)
            return
        body = _Body(self, receive, most, self._settings.body_timeout_s)
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if body.refused is None or started:  # what a route says of a body cut short is of no use
                started = True
                await send(message)

        try:
            await self._app(scope, body, answer)
        except Exception:
            if body.refused is None or started:
                raise
        finally:
            self._held -= body.received
        if body.refused is not None and not started:
            await _refuse_early(body.refused, scope, receive, send)

    def hold(self, count: int) -> None:
        """Count bytes of a body.

        Raises:
            Refused: there are too many of all requests together.
        """
        self._held += count
        if self._held > self._most_held:
            raise Refused(503, "too many large bodies at once; try again later", Connection="close")

    def _most(self, scope: Scope) -> int:
        """Return how many bytes the body of a request may have."""
        method, path = scope["method"], scope["path"]
        if method in _NO_BODY:
            return _NO_BODY_BYTES
        kind = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
        small, large = self._settings.max_json_bytes, self._settings.max_upload_bytes
        if kind == "multipart/form-data":
            return large + _FORM_BYTES
        if kind == "application/x-www-form-urlencoded":
            return _SMALL_FORM_BYTES
        if path.startswith("/v1/items/") and method == "PUT":
            # In JSON a picture is in base64.
            return large if not kind.endswith("json") else max(small, large // 3 * 4 + _FORM_BYTES)
        if method == "POST" and _BULKY.fullmatch(path) and not _SLIM.fullmatch(path):
            return max(small, large)
        return small


class _Body:
    """The `receive` of one request, which counts and times its body."""

    def __init__(self, bodies: Bodies, receive: Receive, most: int, limit_s: float) -> None:
        self._bodies, self._receive, self._most, self._limit_s = bodies, receive, most, limit_s
        self._ends = asyncio.get_running_loop().time() + limit_s
        self._complete = False
        self.received = 0
        self.refused: Refused | None = None

    async def __call__(self) -> Message:
        if self.refused is not None:
            raise self.refused
        if self._complete:
            return await self._receive()  # waits for the client to leave
        try:
            async with asyncio.timeout_at(self._ends) as timer:
                message = await self._receive()
        except TimeoutError:
            if not timer.expired():
                raise
            late = f"the body did not arrive within {self._limit_s:g} s"
            raise self._refuse(Refused(408, late, Connection="close")) from None
        if message["type"] != "http.request":
            self._complete = True
            return message
        count = len(message.get("body", b""))
        self.received += count
        try:
            self._bodies.hold(count)
            if self.received > self._most:
                raise _too_large(self._most)
        except Refused as refused:
            raise self._refuse(refused) from None
        self._complete = not message.get("more_body", False)
        return message

    def _refuse(self, refused: Refused) -> Refused:
        self.refused = refused
        return refused


def _too_large(most: int) -> Refused:
    return Refused(413, f"the body is larger than {most:,} bytes, the limit of this route", Connection="close")


def _check_address(scope: Scope) -> None:
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope["query_string"]
    if len(path) > _LONGEST_PATH or len(query) > _LONGEST_QUERY:
        raise Refused(
            414,
            f"the address is too long; expected a path of {_LONGEST_PATH:,} bytes at most, and a query of "
            f"{_LONGEST_QUERY:,}",
        )
    try:
        plain = unquote_to_bytes(path).decode()
    except UnicodeDecodeError as exc:
        raise Refused(400, "the address is not in UTF-8") from exc
    if "\0" in plain:
        raise Refused(400, "the address has a zero byte", kind="InvalidArgument")
    if query.count(b"&") >= _MOST_FIELDS:
        raise Refused(400, f"the query has more than {_MOST_FIELDS} fields")
    named = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    if any(name.strip().lower() in _TOKENS for name, _ in named):
        raise Refused(
            400,
            "a token in an address ends up in histories and logs; send it in the header  Authorization: "
            "Bearer TOKEN",
        )


def _check_headers(scope: Scope) -> None:
    if scope.get("http_version", "1.1") not in _VERSIONS:
        raise Refused(505, "this server speaks HTTP/1.1", Connection="close")
    found = scope["headers"]
    if len(found) > _MOST_HEADERS or sum(len(name) + len(value) for name, value in found) > _LARGEST_HEADERS:
        raise Refused(
            431, f"the request has more than {_MOST_HEADERS} headers, or {_LARGEST_HEADERS:,} bytes of them"
        )
    if any(coding.lower() not in ("", "identity") for coding in headers(scope, b"content-encoding")):
        raise Refused(415, "the body is compressed; expected it uncompressed", Connection="close")


def _declared(scope: Scope) -> int | None:
    """Return the length that a body is said to have.

    Raises:
        Refused: it is no number, or the request may be read in two ways.
    """
    given = header(scope, b"content-length")
    if given is None:
        return None
    if headers(scope, b"transfer-encoding"):
        raise Refused(400, "the request has both Content-Length and Transfer-Encoding", Connection="close")
    if re.fullmatch(r"[0-9]{1,18}", given) is None:
        raise Refused(400, "the header Content-Length is no number of bytes", Connection="close")
    return int(given)


async def _refuse_early(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request whose body has not been read, so that its client reads the answer.

    A connection closed while a body still comes is reset, and the answer is lost: what comes is read for a
    moment, and thrown away.
    """
    last: list[Message] = []

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            last.append({"type": "http.response.body", "body": b"", "more_body": False})
            message = {**message, "more_body": True}
        await send(message)

    await refuse(refused, scope, receive, answer)
    try:
        async with asyncio.timeout(_LINGER_S):
            while refused.status == 413:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    break
    except TimeoutError:
        pass
    for message in last:
        await send(message)
