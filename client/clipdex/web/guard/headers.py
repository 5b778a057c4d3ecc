"""Security headers of answers, ids of requests, and the answer for a fault."""

from __future__ import annotations

import logging
import random
import re

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipdex.version import __version__
from clipdex.web.guard.requests import Refused, headers, refuse

__all__ = ["ALWAYS", "Headers"]

_LOG = logging.getLogger("clipdex.web")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
ALWAYS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class Headers:
    """Gives every request an id and every answer its headers, and answers unexpected exceptions."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back with more headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = headers(scope, b"x-request-id")
        is_given = len(given) == 1 and _REQUEST_ID.fullmatch(given[0]) is not None
        # No secret; `uuid4` would give up Python's lock for the system's random numbers, and wait for it.
        request_id = given[0] if is_given else f"{random.getrandbits(128):032x}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                found = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    found.setdefault(name, value)
                is_asset = scope["path"].startswith("/static/")
                found.setdefault("Cache-Control", "no-cache" if is_asset else "no-store")
                found["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except ClientDisconnect:
            pass  # nobody waits for an answer
        except Exception:
            # Not the query: it is what somebody searches for.
            _LOG.exception("request %s: %s %.300r failed", request_id, scope["method"], scope["path"])
            if started:
                raise
            fault = Refused(500, f"clipdex {__version__} has a fault; the server's log says more")
            await refuse(fault, scope, receive, answer)
