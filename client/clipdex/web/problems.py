"""Errors as problem details (RFC 9457): which status each has, and what its answer says."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from clipdex.base.errors import (
    AccessDenied,
    AddFailed,
    ClipdexError,
    Closed,
    DeadlineExceeded,
    FingerprintMismatch,
    ImageError,
    IndexLocked,
    IndexNotFound,
    IndexWriteError,
    InvalidArgument,
    ItemNotFound,
    MissingExtra,
    ModelNotFound,
    RequestRefused,
    ServerError,
    ServerUnreachable,
)

__all__ = ["CONTENT_TYPE", "Forbidden", "add_handlers", "problem", "problem_of", "status_of"]

CONTENT_TYPE = "application/problem+json"
_RETRY_AFTER_S = "1"

# The first that an error is an instance of says its status; any other ClipdexError is a 500.
_STATUSES: tuple[tuple[type[ClipdexError], int], ...] = (
    (ItemNotFound, 404),
    (ImageError, 422),
    (AddFailed, 422),
    (InvalidArgument, 422),
    (RequestRefused, 422),
    (FingerprintMismatch, 409),
    (MissingExtra, 501),
    (Closed, 503),
    (IndexLocked, 503),
    (IndexNotFound, 503),
    (IndexWriteError, 507),
    (ServerUnreachable, 503),
    (DeadlineExceeded, 504),
    (AccessDenied, 502),
    (ModelNotFound, 502),
    (ServerError, 502),
)


class Forbidden(ClipdexError):
    """This server does not allow what was asked for: its operator has to."""


def status_of(error: ClipdexError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, Forbidden):
        return 403
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def problem(
    status: int,
    detail: str,
    *,
    kind: str | None = None,
    request_id: str | None = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Response:
    """Make the answer of an error. kind: the name of its class; `more` are members of its own."""
    name = kind or HTTPStatus(status).phrase.replace(" ", "").replace("-", "")
    body = {
        "type": f"urn:clipdex:{name}",
        "title": re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize(),
        "status": status,
        "detail": detail,
    }
    if request_id is not None:
        body["instance"] = f"urn:request:{request_id}"
    retry = {"Retry-After": _RETRY_AFTER_S} if status == 503 else {}
    return JSONResponse(body | more, status, retry | (headers or {}), CONTENT_TYPE)


def problem_of(error: ClipdexError, *, request_id: str | None = None) -> Response:
    """Make the answer of a ClipdexError."""
    more: dict[str, Any] = {}
    if isinstance(error, ImageError):
        more["reason"] = error.reason
    if isinstance(error, AddFailed):
        more["added"] = error.added
        more["failures"] = {key: str(each) for key, each in error.failures.items()}
    return problem(status_of(error), str(error), kind=type(error).__name__, request_id=request_id, **more)


def add_handlers(app: FastAPI) -> None:
    """Let an application answer every error as a problem."""

    def id_of(request: Request) -> str | None:
        found = getattr(request.state, "request_id", None)
        return found if isinstance(found, str) else None

    @app.exception_handler(ClipdexError)
    async def of_ours(request: Request, error: ClipdexError) -> Response:
        return problem_of(error, request_id=id_of(request))

    @app.exception_handler(HTTPException)
    async def of_the_router(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        return problem(error.status_code, str(error.detail), request_id=id_of(request), headers=headers)

    @app.exception_handler(RequestValidationError)
    async def of_a_field(request: Request, error: RequestValidationError) -> Response:
        found = [{"loc": list(each["loc"]), "msg": each["msg"]} for each in error.errors()]
        where = ".".join(map(str, found[0]["loc"])) if found else "the request"
        detail = f"{where}: {found[0]['msg'] if found else 'is invalid'}"
        return problem(422, detail, kind="InvalidArgument", request_id=id_of(request), errors=found)
