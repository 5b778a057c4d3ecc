"""The records of pictures and hits in answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from clipdex.base.json_text import plain_text
from clipdex.base.records import Picture
from clipdex.collection.item import StoredItem
from clipdex.features.matching import Match
from clipdex.index.hits import Hit
from clipdex.web.schemas.hits import HitOut
from clipdex.web.schemas.items import ExifOut, StoredOut
from clipdex.web.served import HeldCollection

__all__ = ["address_of", "hit_fields", "hit_out", "match_fields", "rendered", "stored_out", "utc", "version_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def version_of(content_hash: bytes) -> str:
    """Return the version of a picture in URLs: it changes with the content."""
    return content_hash[:8].hex()


def utc(seconds: float) -> str:
    """Return a time, in seconds since 1970, as ISO 8601."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def address_of(held: HeldCollection, request: Request, row: int, what: str, version: str) -> str:
    """Return the URL path of a picture's `what`: thumbnail or original."""
    named = "" if held.alone else f"&{urlencode({'index': held.name})}"
    return f"{request.scope.get('root_path', '')}/v1/pictures/{row}/{what}?v={version}{named}"


def stored_out(held: HeldCollection, request: Request, item: StoredItem) -> StoredOut:
    """Make the answer's record of a picture."""
    return StoredOut(**_fields(held, request, item))


def hit_out(held: HeldCollection, request: Request, hit: Hit) -> HitOut:
    """Make the answer's record of a hit, and of its copies."""
    return HitOut(**hit_fields(held, request, hit))


def hit_fields(held: HeldCollection, request: Request, hit: Hit) -> dict[str, Any]:
    """Return the fields of a `HitOut`, as JSON has them."""
    copies = [hit_fields(held, request, copy) for copy in hit.copies]
    return _found_fields(held, request, hit) | {"score": hit.score, "copies": copies}


def match_fields(held: HeldCollection, request: Request, match: Match) -> dict[str, Any]:
    """Return the fields of a `MatchOut`, as JSON has them."""
    geometry = match.verified.as_dict()
    del geometry["size"]  # of the picture, which has its width and height; its `size` here is bytes
    return _found_fields(held, request, match) | geometry


def _found_fields(held: HeldCollection, request: Request, hit: Hit | Match) -> dict[str, Any]:
    """Return the fields of a `StoredOut`, as JSON has them."""
    picture = hit.picture
    assert isinstance(picture, Picture)  # a search made it
    p = picture
    item = StoredItem(
        hit.id,
        hit.path,
        hit.row,
        p.width,
        p.height,
        p.size,
        p.mtime_ns,
        hit.metadata or {},
        p.content_hash,
        p.exif,
    )
    return _fields(held, request, item)


def _fields(held: HeldCollection, request: Request, item: StoredItem) -> dict[str, Any]:
    version = version_of(item.content_hash)
    shown = held.settings.show_paths or item.id is not None
    name = item.id if item.id is not None else item.path.rpartition("/")[2]
    original = None if item.id is not None else address_of(held, request, item.row, "original", version)
    return {
        "row": item.row,
        "id": item.id,
        "name": plain_text(name),
        "path": plain_text(item.path) if shown else None,
        "width": item.width,
        "height": item.height,
        "size": item.size,
        "modified": utc(item.mtime_ns / 1e9),
        "metadata": item.metadata,
        "exif": ExifOut(**item.exif.as_dict()).model_dump() if item.exif else None,
        "version": version,
        "thumbnail": address_of(held, request, item.row, "thumbnail", version),
        "original": original,
    }


async def rendered(
    make: Callable[[], BaseModel | dict[str, Any]], status: int = 200, *, quick: bool = False
) -> Response:
    """Make an answer and its JSON in a thread: a thousand hits take longer than the event loop may wait.

    quick: it takes no longer than handing it to a thread, and is done at once.
    """

    def render() -> bytes:
        made = make()
        said = made.model_dump(mode="python") if isinstance(made, BaseModel) else made
        return json.dumps(said, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

    content = render() if quick else await asyncio.to_thread(render)
    return Response(content, status, media_type="application/json")
