"""Finding this very picture by local features."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from clipdex.base.errors import InvalidArgument
from clipdex.web.filters import require_allowed
from clipdex.web.leaving import while_there
from clipdex.web.problems import answers
from clipdex.web.records import match_fields, rendered
from clipdex.web.schemas.matches import MatchesOut, MatchIn
from clipdex.web.schemas.queries import ATTACHED
from clipdex.web.served import Chosen
from clipdex.web.uploads import json_or_form, picture_bytes, with_one_picture

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["search"])


@router.post(
    "/match",
    response_model=MatchesOut,
    summary="Find this very picture, by local features",
    responses=answers(409, 501),
    openapi_extra=json_or_form(MatchIn, "Options, in JSON.", required=["image"]),
)
async def match(held: Chosen, request: Request) -> Response:
    """Find the pictures that a crop, a screenshot, a photo of a print or a collage shows, and where it shows them.

    The picture is sent in base64, as a data URI, or as a file of a form, whose field `request` may have the
    options. The answer is empty if the index does not have the picture. Needs an index whose pictures have local
    features: its operator makes them with `clipdex features build`.
    """
    said, data = await with_one_picture(request, MatchIn, held.settings.max_upload_bytes)
    asked = said or MatchIn()
    if data is not None and asked.image not in (None, ATTACHED):
        raise InvalidArgument("the form has a picture, and its field request another; give one of them")
    if data is None:
        if asked.image is None or asked.image == ATTACHED:
            raise InvalidArgument("image: expected a picture file in base64, a data URI, or a form with a file")
        data = await asyncio.to_thread(picture_bytes, asked.image, held.settings.max_upload_bytes)
    if asked.where is not None:
        await asyncio.to_thread(require_allowed, asked.where, held.settings)
    if asked.within is not None:
        held.require_model()
    matching = held.collection.match(
        data,
        asked.top_k,
        min_inliers=asked.min_inliers,
        parts=asked.parts,
        within=asked.within,
        where=asked.where,
        params=asked.params,
    )
    found = await while_there(request, matching)
    blocking = held.collection.collection

    def make() -> dict[str, Any]:  # a `MatchesOut`
        return {"matches": [match_fields(held, request, each) for each in found], "pictures": len(blocking)}

    return await rendered(make)
