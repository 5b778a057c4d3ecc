"""Health, readiness and metrics, for those who run the server."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from clipdex.base.errors import ClipdexError
from clipdex.web.metrics import Metrics
from clipdex.web.problems import answers, problem
from clipdex.web.records import rendered
from clipdex.web.schemas.operations import HealthOut, ReadyOut
from clipdex.web.served import HeldCollection, Served, served_of

__all__ = ["router"]

router = APIRouter(tags=["operations"])

_WAIT_S = 2.0
# What the guard may answer.
_GUARDED = (400, 401, 403, 408, 413, 414, 415, 421, 429, 431, 500)


async def _searchable(held: HeldCollection) -> int | None:
    """Return the number of pictures of an index; None if it cannot be read now."""
    try:
        async with asyncio.timeout(_WAIT_S):
            return await held.collection.count()
    except (ClipdexError, TimeoutError):
        return None


async def _model_answers(served: Served) -> bool:
    """Whether the inference server has its models ready."""
    try:
        async with asyncio.timeout(_WAIT_S):
            for held in served.collections.values():
                await held.collection.require_server(_WAIT_S)
    except (ClipdexError, TimeoutError):
        return False
    return True


@router.get(
    "/healthz", response_model=HealthOut, summary="Whether the process answers", responses=answers(*_GUARDED)
)
async def healthz() -> HealthOut:
    """Answer, whatever the state of indexes and inference server."""
    return HealthOut()


@router.get(
    "/readyz",
    response_model=ReadyOut,
    summary="Whether requests can be answered",
    responses=answers(*_GUARDED, 503),
)
async def readyz(request: Request) -> Response:
    """Answer whether all indexes can be read, and the inference server has its model ready."""
    served = served_of(request)
    held = list(served.collections.values())
    has_model = served.settings.server is not None
    *counts, answers_now = await asyncio.gather(
        *map(_searchable, held), _model_answers(served) if has_model else asyncio.sleep(0, True)
    )
    missing = [
        f"the index {each.name} cannot be read" for each, count in zip(held, counts, strict=True) if count is None
    ]
    if not answers_now:
        missing.append("the model server does not answer, or has not loaded the model")
    if missing:
        return problem(503, "not ready: " + "; ".join(missing), kind="NotReady")
    return await rendered(lambda: ReadyOut(indexes=[each.name for each in held], model=has_model))


@router.get(
    "/metrics",
    summary="Metrics in Prometheus' text format",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics"},
        **answers(*_GUARDED, 503),
    },
)
async def metrics(request: Request) -> Response:
    """Return the metrics of this process and its indexes."""
    served = served_of(request)
    measured: Metrics = request.app.state.metrics
    held = list(served.collections.values())
    for each, count in zip(held, await asyncio.gather(*map(_searchable, held)), strict=True):
        measured.ready.labels(each.name).set(count is not None)
        if count is not None:
            measured.pictures.labels(each.name).set(count)
    if served.settings.server is not None:
        measured.server_ready.set(await _model_answers(served))
    return Response(measured.text(), media_type=CONTENT_TYPE_LATEST)
