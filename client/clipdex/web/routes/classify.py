"""Zero-shot classification of a picture by labels."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from clipdex.base.errors import InvalidArgument
from clipdex.client.classification import DEFAULT_TEMPLATES
from clipdex.web.problems import answers
from clipdex.web.records import rendered
from clipdex.web.schemas.insights import ClassifiedOut, ClassifyIn, LabelOut
from clipdex.web.served import Chosen
from clipdex.web.uploads import json_or_form, picture_bytes, with_one_picture

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["classify"])

_MOST_TEXTS = 10_000  # labels in templates


@router.post(
    "/classify",
    response_model=ClassifiedOut,
    summary="Classify a picture by labels",
    responses=answers(404, 409),
    openapi_extra=json_or_form(ClassifyIn, "Labels and templates, in JSON.", required=["image", "request"]),
)
async def classify(held: Chosen, request: Request) -> Response:
    """Return the probability of each label for a picture, without training on the labels."""
    asked, data = await with_one_picture(request, ClassifyIn, held.settings.max_upload_bytes)
    if asked is None:
        raise InvalidArgument("request: expected a field with labels in JSON in the form")
    held.require_model()
    given = [each for each in (asked.image, asked.id, asked.row, data) if each is not None]
    if len(given) != 1:
        raise InvalidArgument(f"a picture is exactly one of image, id and row; {len(given)} of them were given")
    templates = asked.templates or list(DEFAULT_TEMPLATES)
    if len(asked.labels) * len(templates) > _MOST_TEXTS:
        raise InvalidArgument(
            f"{len(asked.labels):,} labels in {len(templates):,} templates are too many texts; expected "
            f"{_MOST_TEXTS:,} at most"
        )
    picture: dict[str, Any]
    if asked.id is not None or asked.row is not None:
        picture = {"item": asked.row if asked.id is None else asked.id}
    elif asked.image is not None:
        picture = {"image": await asyncio.to_thread(picture_bytes, asked.image, held.settings.max_upload_bytes)}
    else:
        picture = {"image": data}
    found = await held.collection.classify(asked.labels, templates=templates, **picture)
    return await rendered(
        lambda: ClassifiedOut(
            labels=[LabelOut(label=x.label, probability=x.probability, score=x.score) for x in found]
        )
    )
