"""Thumbnails and originals of pictures, by row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from clipdex.web.pictures.conditions import attachment, matches, range_of
from clipdex.web.pictures.originals import Original
from clipdex.web.pictures.thumbnails import Side
from clipdex.web.problems import answers
from clipdex.web.routes.items import stored
from clipdex.web.served import Chosen, pictures_of

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["pictures"])

_FOR_EVER = "private, max-age=31536000, immutable"

Version = Annotated[
    str | None,
    Query(
        max_length=64, description="Version of the picture, as hits have it; the answer may be cached for ever."
    ),
]

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "The picture that the client has."}}
_PART: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": {"*/*": _BINARY}},
    206: {"description": "A part of it.", "content": {"*/*": _BINARY}},
}
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"description": "The thumbnail.", "content": {"image/jpeg": _BINARY}}
}


def _headers(version: str | None, tag: str) -> dict[str, str]:
    return {
        "ETag": tag,
        "Cache-Control": "no-cache" if version is None else _FOR_EVER,
        "X-Content-Type-Options": "nosniff",
    }


@router.head("/pictures/{row}/thumbnail", include_in_schema=False)
@router.get(
    "/pictures/{row}/thumbnail",
    response_class=Response,
    summary="Get a picture's thumbnail",
    responses=_JPEG | _UNCHANGED | answers(404),
)
async def thumbnail(
    held: Chosen,
    request: Request,
    row: int,
    side: Annotated[Side, Query(description="The most pixels of its width and height.")] = Side.MEDIUM,
    v: Version = None,
) -> Response:
    """Get a small JPEG of a picture: upright, whole, in sRGB. That of an item has at most 320 pixels a side."""
    item = await stored(held, row, v)
    tag = f'"{item.content_hash.hex()}-{side}"'
    headers = _headers(v, tag)
    if matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    jpeg = await pictures_of(request).thumbnails.of(held, item, side)
    return Response(jpeg, media_type="image/jpeg", headers=headers)


@router.head("/pictures/{row}/original", include_in_schema=False)
@router.get(
    "/pictures/{row}/original",
    response_class=Response,
    summary="Download a picture's file",
    responses=_PART | _UNCHANGED | answers(404, 416),
)
async def original(held: Chosen, request: Request, row: int, v: Version = None) -> Response:
    """Download the file of a picture as it is, or one range of it. Its content is the one that was indexed."""
    item = await stored(held, row, v)
    tag = f'"{item.content_hash.hex()}"'
    headers = _headers(v, tag)
    if matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    found = await _opened(partial(pictures_of(request).originals.open, held.name, item))
    headers |= {"Accept-Ranges": "bytes", "Content-Disposition": attachment(found.name)}
    part = range_of(request.headers.get("range"), request.headers.get("if-range"), tag, found.size)
    if part == "unsatisfiable":
        found.close()
        said = {"Content-Range": f"bytes */{found.size}", "Cache-Control": "no-store"}
        raise HTTPException(416, f"the file has {found.size:,} bytes; expected a range within it", said)
    start, end = part or (0, found.size)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
    if request.method == "HEAD":
        found.close()
        return Response(status_code=200, media_type=found.media_type, headers=headers)
    return _Sent(found, start, end, 200 if part is None else 206, headers)


async def _opened(open_original: Callable[[], Original]) -> Original:
    """Open an original in a thread, which reads the whole file; if the request ends before, it is closed there."""
    opening = asyncio.get_running_loop().run_in_executor(None, open_original)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unwanted)
        raise


def _close_unwanted(opening: asyncio.Future[Original]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class _Sent(StreamingResponse):
    """An original that is read in threads while it is sent, and closed in the end, also if nobody reads it."""

    def __init__(self, original: Original, start: int, end: int, status: int, headers: dict[str, str]) -> None:
        self._original = original
        chunks: Iterator[bytes] = original.chunks(start, end)
        super().__init__(chunks, status, headers, original.media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._original.close()
