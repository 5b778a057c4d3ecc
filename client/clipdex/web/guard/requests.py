"""Reading headers of a request, and refusing it."""

from __future__ import annotations

from typing import Any

from starlette.types import Receive, Scope, Send

from clipdex.web.problems import problem

__all__ = ["Refused", "header", "headers", "is_probe", "refuse"]


class Refused(Exception):
    """Raised to refuse a request with a problem."""

    def __init__(self, status: int, detail: str, *, kind: str | None = None, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.kind = status, detail, kind
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def headers(scope: Scope, name: bytes) -> list[str]:
    """Return every value of a header. name: in lower case."""
    return [value.decode("latin-1").strip() for each, value in scope["headers"] if each.lower() == name]


def header(scope: Scope, name: bytes) -> str | None:
    """Return the only value of a header, None if it is not there.

    Raises:
        Refused: it is there more than once.
    """
    found = headers(scope, name)
    if len(found) > 1:
        raise Refused(400, f"the request has {len(found)} headers {name.decode().title()}; expected one")
    return found[0] if found else None


def is_probe(scope: Scope) -> bool:
    """True if a request is for health, readiness or metrics."""
    return scope["path"] in ("/healthz", "/readyz", "/metrics")


async def refuse(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with its refusal."""
    state: dict[str, Any] = scope.get("state", {})
    answer = problem(
        refused.status,
        refused.detail,
        kind=refused.kind,
        request_id=state.get("request_id"),
        headers=refused.headers,
    )
    await answer(scope, receive, send)
