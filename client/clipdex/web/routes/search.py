"""Searching by text, picture, item, mixture or vector."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from clipdex.base.errors import InvalidArgument
from clipdex.search.grouping import Grouping
from clipdex.search.mixture import Query as Mixture
from clipdex.web.filters import require_allowed
from clipdex.web.leaving import while_there
from clipdex.web.problems import answers
from clipdex.web.records import hit_fields, rendered
from clipdex.web.schemas.hits import HitsOut
from clipdex.web.schemas.queries import ATTACHED, MOST_HITS, MOST_OFFSET, OptionsIn, PartIn, SearchIn
from clipdex.web.served import Chosen, HeldCollection
from clipdex.web.uploads import (
    content_type,
    json_of,
    json_or_form,
    modelled,
    picture_bytes,
    pictures_of_form,
    unsupported,
    validated,
    vector_of,
)

__all__ = ["found", "router"]

router = APIRouter(prefix="/v1", tags=["search"])

_MOST_PICTURES = 8  # of one request
_QUICK_HITS = 50  # take less than a millisecond to render, and a thread as long to be had


async def _options(  # async, though it waits for nothing: FastAPI runs others in a thread
    top_k: Annotated[int, Query(ge=1, le=MOST_HITS, description="Number of hits.")] = 20,
    offset: Annotated[int, Query(ge=0, le=MOST_OFFSET, description="Number of better hits to skip.")] = 0,
    min_score: Annotated[
        float | None, Query(ge=-1, le=1, allow_inf_nan=False, description="Minimum cosine similarity of a hit.")
    ] = None,
    where: Annotated[
        str | None,
        Query(min_length=1, max_length=10_000, description="Condition in SQL.", examples=["width > 1000"]),
    ] = None,
    group: Annotated[bool, Query(description="Make near-duplicates one hit.")] = False,
) -> OptionsIn:
    return OptionsIn(top_k=top_k, offset=offset, min_score=min_score, where=where, group=group)


Options = Annotated[OptionsIn, Depends(_options)]


async def found(held: HeldCollection, request: Request, options: OptionsIn, **query: Any) -> Response:
    """Search, and make the answer. query: what `Collection.search` takes besides the options.

    Raises:
        Forbidden: the condition uses what this server does not show.
        Left: the client has left, and the search was ended.
        ClipdexError: as `Collection.search`.
    """
    if options.where is not None:
        await asyncio.to_thread(require_allowed, options.where, held.settings)
    group = options.group
    searching = held.collection.search(
        top_k=options.top_k + 1,  # whether there is a next page
        offset=options.offset,
        min_score=options.min_score,
        where=options.where,
        params=options.params,
        group=group if isinstance(group, bool) else Grouping(group.similarity, group.cosine),
        **query,
    )
    hits = await while_there(request, searching)
    text = query.get("text")
    texts = text.texts if isinstance(text, Mixture) else []
    blocking = held.collection.collection
    following = options.offset + options.top_k
    there_is_more = len(hits) > options.top_k and following <= MOST_OFFSET

    def make() -> dict[str, Any]:  # a `HitsOut`, which is slow to make
        return {
            "hits": [hit_fields(held, request, hit) for hit in hits[: options.top_k]],
            "offset": options.offset,
            "next_offset": following if there_is_more else None,
            "pictures": blocking.seen(),  # the search has looked for commits
            "cut": [end for end in blocking.lost(texts) if end] if texts else [],
        }

    return await rendered(make, quick=options.top_k <= _QUICK_HITS and not group)


def _query(held: HeldCollection, asked: SearchIn, files: list[bytes]) -> dict[str, Any]:
    """Return what a body asks for, as arguments of `Collection.search`. files: those of a form, in order."""
    if files and (asked.vector is not None or asked.id is not None or asked.row is not None):
        raise InvalidArgument("the form has a picture, but its query is another; give one of them, or parts")
    if asked.vector is not None:
        return {"vector": vector_of(asked.vector)}
    if asked.id is not None or asked.row is not None:
        return {"item": asked.row if asked.id is None else asked.id}
    if asked.text is not None or asked.image is not None:
        parts = [PartIn(text=asked.text, image=asked.image)]
    else:
        parts = asked.parts or []
    query, waiting = Mixture(), iter(files)
    pictures = sum(part.image is not None for part in parts)
    attached = sum(part.image == ATTACHED for part in parts)
    if attached != len(files):
        raise InvalidArgument(
            f"the query has {attached} pictures that are {ATTACHED!r}, but the form has {len(files)} files named "
            "image; expected the same number"
        )
    if pictures > _MOST_PICTURES:
        raise InvalidArgument(f"the query has {pictures} pictures; expected {_MOST_PICTURES} at most")
    most = held.settings.max_upload_bytes
    for part in parts:
        if part.text is not None:
            query = query.plus(text=part.text, weight=part.weight)
        elif part.image is not None:
            data = next(waiting) if part.image == ATTACHED else picture_bytes(part.image, most)
            query = query.plus(image=data, weight=part.weight)
        else:
            query = query.plus(like=part.row if part.id is None else f"id:{part.id}", weight=part.weight)
    if query.texts or query.images:
        held.require_model()
    return {"text": query}


@router.post(
    "/search",
    response_model=HitsOut,
    summary="Search by a text, a picture, a picture of the index, a mixture or a vector",
    responses=answers(404, 409, 507),
    openapi_extra=json_or_form(
        SearchIn,
        f"Options, or a query with parts, in JSON. A part's image may be `{ATTACHED}`.",
        required=["image"],
    ),
)
async def search(held: Chosen, request: Request) -> Response:
    """Find the pictures nearest to a query, best first.

    A picture is sent in base64, as a data URI, or as a file of a form; then the form's field `request` has the
    options, and may have `parts` in which `"image": "attached"` stands for the file.
    """
    if content_type(request) == "application/json":
        asked, files = await json_of(request, SearchIn), list[bytes]()
    elif content_type(request) == "multipart/form-data":
        asked, files = await _of_form(held, request)
    else:
        raise unsupported(request, "application/json", "multipart/form-data")
    has_pictures = files or asked.image is not None or any(part.image is not None for part in asked.parts or ())
    query = await asyncio.to_thread(_query, held, asked, files) if has_pictures else _query(held, asked, files)
    return await found(held, request, asked, **query)


async def _of_form(held: HeldCollection, request: Request) -> tuple[SearchIn, list[bytes]]:
    files, said = await pictures_of_form(request, _MOST_PICTURES, held.settings.max_upload_bytes)
    asked = await asyncio.to_thread(validated, dict[str, Any], "{}" if said is None else said, "request")
    if not asked.keys() & {"text", "parts", "image", "id", "row", "vector"}:
        asked["image"] = ATTACHED
    return modelled(SearchIn, asked, "request"), files


@router.get("/search", response_model=HitsOut, summary="Search by a text", responses=answers(404, 409, 507))
async def search_by_text(
    held: Chosen,
    request: Request,
    options: Options,
    text: Annotated[
        str,
        Query(min_length=1, max_length=10_000, description="What the pictures should show.", examples=["a dog"]),
    ],
) -> Response:
    """Find the pictures that best match a text; for links and curl."""
    held.require_model()
    return await found(held, request, options, text=Mixture().plus(text=text))


@router.get("/similar", response_model=HitsOut, summary="Search by a picture", responses=answers(404, 409, 507))
async def similar(
    held: Chosen,
    request: Request,
    options: Options,
    id: Annotated[str | None, Query(max_length=1024, description="Id of an item.")] = None,
    row: Annotated[int | None, Query(ge=0, lt=1 << 63, description="Row of a picture.")] = None,
) -> Response:
    """Find the pictures nearest to a picture of the index, which is left out."""
    if (id is None) == (row is None):
        raise InvalidArgument("expected exactly one of id= and row=")
    return await found(held, request, options, item=row if id is None else id)
