"""Errors as problem details (RFC 9457): their HTTP statuses and sentences."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
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
    IndexFault,
    IndexLocked,
    IndexNotFound,
    IndexWriteError,
    InvalidArgument,
    ItemNotFound,
    MissingExtra,
    ModelNotFound,
    NoLocalFeatures,
    RequestRefused,
    ServerError,
    ServerUnreachable,
    SourceError,
)
from clipdex.base.json_text import plain_text
from clipdex.version import __version__
from clipdex.web.metrics import note

__all__ = [
    "CONTENT_TYPE",
    "Forbidden",
    "Hidden",
    "Left",
    "add_handlers",
    "answers",
    "problem",
    "problem_of",
    "status_of",
]

CONTENT_TYPE = "application/problem+json"
_RETRY_AFTER_S = "1"
_LEFT = 499  # as nginx has it; nobody reads it but the metrics
_MOST_TOLD = 20  # fields that are wrong, of one request
_LOG = logging.getLogger("clipdex.web")

# The first class that an error is an instance of gives its status; any other ClipdexError is a 500.
_STATUSES: tuple[tuple[type[ClipdexError], int], ...] = (
    (ItemNotFound, 404),
    (ImageError, 422),
    (AddFailed, 422),
    (InvalidArgument, 422),
    (RequestRefused, 422),
    (FingerprintMismatch, 409),
    (NoLocalFeatures, 409),
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

# What these say is for the operator: files of the index, addresses and credentials of the inference server.
_FOR_THE_OPERATOR = (IndexFault, SourceError, ServerUnreachable, AccessDenied, ModelNotFound)


def _is_for_the_operator(error: ClipdexError) -> bool:
    return isinstance(error, _FOR_THE_OPERATOR) and not isinstance(error, NoLocalFeatures)


class Forbidden(ClipdexError):
    """The server does not allow the request; its operator can."""


class Left(ClipdexError):
    """The client has left; nobody reads the answer."""


class Hidden:
    """Removes this machine's paths from the sentences of answers."""

    def __init__(self, indexes: Iterable[Path], *, show_paths: bool) -> None:
        """indexes: directories that are served; each is shown by its name. show_paths: nothing is hidden."""
        self.show_paths = show_paths
        named: dict[str, str] = {}
        for index in indexes:
            for spelled in (os.path.realpath(index), os.path.abspath(index), os.fspath(index)):
                named[spelled] = os.path.basename(os.path.abspath(index))
        # The longest first: one index may be in a folder that another's name begins with.
        self._named = sorted(named.items(), key=lambda one: -len(one[0]))

    def cleaned(self, text: str) -> str:
        """Replace each index's path by its name, and every other path of this machine by an ellipsis."""
        text = plain_text(text)
        if self.show_paths:
            return text
        for path, name in self._named:
            text = re.sub(rf"{re.escape(path)}(?=$|[^\w.-])", lambda _, name=name: name, text)  # type: ignore[misc]
        return _places().sub("…", text)

    def sentence(self, error: ClipdexError) -> str:
        """Return the sentence of an answer for an error."""
        if self.show_paths or not _is_for_the_operator(error):
            return self.cleaned(str(error))
        first = (type(error).__doc__ or "").strip().splitlines()[0]
        return f"{first} The server's log says more."


@cache
def _places() -> re.Pattern[str]:
    """Match a path below a folder that says where this process runs: home, temporary files, Python, packages."""
    folders = {os.path.expanduser("~"), tempfile.gettempdir(), os.getcwd(), os.path.dirname(os.__file__)}
    folders |= {str(Path(__file__).resolve().parent.parent), os.path.realpath(tempfile.gettempdir())}
    known = "|".join(re.escape(each) for each in sorted(folders - {"/", ""}, key=len, reverse=True))
    return re.compile(rf"(?:{known})(?=$|[^\w.-])(?:/[^\s'\":,;]*)*")


def status_of(error: ClipdexError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, Forbidden):
        return 403
    if isinstance(error, Left):
        return _LEFT
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
    """Make the answer for an error. kind: the name of its class; `more` are further members."""
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


def problem_of(error: ClipdexError, *, request_id: str | None = None, hidden: Hidden | None = None) -> Response:
    """Make the answer for a ClipdexError. hidden: the paths to remove; by default those of this process."""
    hidden = hidden or Hidden((), show_paths=False)
    more: dict[str, Any] = {}
    if isinstance(error, ImageError):
        more["reason"] = error.reason
    if isinstance(error, AddFailed):
        more["added"] = error.added
        more["failures"] = {key: hidden.sentence(each) for key, each in error.failures.items()}
    status = status_of(error)
    return problem(status, hidden.sentence(error), kind=type(error).__name__, request_id=request_id, **more)


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document statuses of a route for OpenAPI, as problems: `responses=answers(404)`."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {CONTENT_TYPE: {"schema": schema}}}
        for status in statuses
    }


def add_handlers(app: FastAPI, hidden: Hidden) -> None:
    """Make an application answer every error as a problem."""

    def id_of(request: Request) -> str | None:
        found = getattr(request.state, "request_id", None)
        return found if isinstance(found, str) else None

    @app.exception_handler(ClipdexError)
    async def of_ours(request: Request, error: ClipdexError) -> Response:
        if isinstance(error, ImageError):
            note(request.state, decode_failures=1)
        if isinstance(error, AddFailed):
            undecoded = sum(isinstance(each, ImageError) for each in error.failures.values())
            note(request.state, added=error.added, decode_failures=undecoded)
        if _is_for_the_operator(error) or status_of(error) >= 500:
            _LOG.warning("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
        return problem_of(error, request_id=id_of(request), hidden=hidden)

    @app.exception_handler(HTTPException)
    async def of_the_router(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        return problem(
            error.status_code, hidden.cleaned(str(error.detail)), request_id=id_of(request), headers=headers
        )

    @app.exception_handler(RequestValidationError)
    async def of_a_field(request: Request, error: RequestValidationError) -> Response:
        found = [_of_field(each) for each in error.errors()[:_MOST_TOLD]]
        first = found[0] if found else {"loc": ["the request"], "msg": "it is invalid"}
        detail = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        return problem(422, detail, kind="InvalidArgument", request_id=id_of(request), errors=found)

    @app.exception_handler(Exception)
    async def of_a_fault(request: Request, error: Exception) -> Response:
        detail = f"clipdex {__version__} has a fault; the server's log says more"
        return problem(500, detail, request_id=id_of(request))


def _of_field(error: Mapping[str, Any]) -> dict[str, Any]:
    where = [each if isinstance(each, int) else plain_text(str(each))[:80] for each in error["loc"]]
    return {"loc": where, "msg": plain_text(str(error["msg"]).removeprefix("Value error, "))[:500]}
