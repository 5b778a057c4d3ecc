"""Files that could not be indexed."""

from __future__ import annotations

import os
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from clipdex.base.json_text import plain_text
from clipdex.base.records import Failure
from clipdex.web.problems import Hidden, answers
from clipdex.web.records import rendered
from clipdex.web.schemas.insights import FailureOut, FailuresOut
from clipdex.web.schemas.queries import MOST_OFFSET
from clipdex.web.served import Chosen, HeldCollection

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["info"])


@router.get(
    "/failures", response_model=FailuresOut, summary="List files that could not be indexed", responses=answers()
)
async def failures(
    held: Chosen,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=MOST_OFFSET, description="Number of files to skip.")] = 0,
) -> Response:
    """List the files that could not be indexed, by path, with the reason of each."""
    found = await held.collection.failures(limit, offset)
    total = sum((await held.collection.info()).failures.values())
    more = offset + limit < total and offset + limit <= MOST_OFFSET
    hidden = Hidden(held.settings.indexes, show_paths=held.settings.show_paths)
    return await rendered(
        lambda: FailuresOut(
            failures=[_out(held, hidden, each) for each in found],
            total=total,
            offset=offset,
            next_offset=offset + limit if more else None,
        )
    )


def _out(held: HeldCollection, hidden: Hidden, failure: Failure) -> FailureOut:
    path = os.fsdecode(failure.path)
    name = path.rpartition("/")[2]
    detail = failure.detail
    if not hidden.show_paths:
        folder = path.rpartition("/")[0]
        detail = detail.replace(path, name)
        detail = detail.replace(folder, "…") if len(folder) > 1 else detail
    return FailureOut(
        name=plain_text(name),
        path=plain_text(path) if held.settings.show_paths else None,
        reason=failure.reason,
        detail=hidden.cleaned(detail),
    )
