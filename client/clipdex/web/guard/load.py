"""Limits on load: concurrent requests, requests per second, and seconds per request."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipdex.web.guard.requests import Refused, is_probe, refuse
from clipdex.web.settings import WebSettings

__all__ = ["Buckets", "Rates", "Slots", "client_of"]

_MOST_CLIENTS = 10_000


class Buckets:
    """A rate limit for each client: `burst` times at once, `per_s` times per second on average.

    Of more than `most` clients, the least recent are forgotten.
    """

    def __init__(self, per_s: float, burst: float, most: int = _MOST_CLIENTS) -> None:
        self._per_s, self._burst, self._most = per_s, burst, most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (how often, since when)

    def wait_s(self, client: str) -> float:
        """Return the seconds until a client may do it; 0 if it may now."""
        return max(0.0, (1 - self._now(client)[0]) / self._per_s)

    def take(self, client: str) -> None:
        """Note that a client has done it."""
        left, now = self._now(client)
        self._left[client] = (max(0.0, left - 1), now)
        self._left.move_to_end(client)
        if len(self._left) > self._most:
            self._left.popitem(last=False)

    def _now(self, client: str) -> tuple[float, float]:
        now = time.monotonic()
        left, since = self._left.get(client, (self._burst, now))
        return min(self._burst, left + (now - since) * self._per_s), now


def client_of(scope: Scope) -> str:
    """Return what a request's client is counted under: its address, or its network where it has many."""
    client = scope.get("client")
    name = str(client[0]) if client else ""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return name


class Rates:
    """Refuse what a client asks more often than it may."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app = app
        often = settings.requests_per_s
        self._buckets = None if often is None else Buckets(often, max(1.0, 2 * often))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] == "http" and self._buckets is not None and not is_probe(scope):
            client = client_of(scope)
            wait_s = self._buckets.wait_s(client)
            if wait_s > 0:
                refused = Refused(
                    429, "too many requests from this client; try again later", Retry_After=str(math.ceil(wait_s))
                )
                await refuse(refused, scope, receive, send)
                return
            self._buckets.take(client)
        await self._app(scope, receive, send)


class Slots:
    """Limits the number of concurrent requests, and the time of each.

    Files and thumbnails have as many slots of their own, so that a page of them does not block searches.
    """

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app, self._settings = app, settings
        self._busy = {True: 0, False: 0}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on for as long as it may take."""
        if scope["type"] != "http" or is_probe(scope):
            await self._app(scope, receive, send)
            return
        light = _is_file(scope["path"])
        if self._busy[light] >= self._settings.max_concurrent:
            await refuse(Refused(503, "the server is busy; try again later"), scope, receive, send)
            return
        self._busy[light] += 1
        try:
            await self._in_time(scope, receive, send)
        finally:
            self._busy[light] -= 1

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit_s, stall_s = self._settings.request_timeout_s, self._settings.body_timeout_s
        clock = asyncio.get_running_loop().time
        timer = asyncio.timeout(limit_s)
        started = False

        async def answer(message: Message) -> None:
            # The limit is for the answer to begin: a large file may take longer, while its reader keeps reading.
            nonlocal started
            started = True
            if not timer.expired():
                timer.reschedule(clock() + stall_s)
            await send(message)
            if not timer.expired():
                timer.reschedule(clock() + limit_s)

        try:
            async with timer:
                await self._app(scope, receive, answer)
        except TimeoutError:
            if not timer.expired():
                raise
            if not started:
                late = Refused(504, f"the request was not answered within {limit_s:g} s", kind="DeadlineExceeded")
                await refuse(late, scope, receive, send)
            # Else the answer has begun: the server sees that it is not complete, and closes the connection.


def _is_file(path: str) -> bool:
    return path.startswith("/static/") or (path.startswith("/v1/pictures/") and path.count("/") > 3)
