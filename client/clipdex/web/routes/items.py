"""Pictures by id and by row: read, added, changed and removed."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field, TypeAdapter
from starlette.responses import Response

from clipdex.base.errors import AddFailed, ClipdexError, InvalidArgument, ItemNotFound
from clipdex.collection.item import Item, StoredItem
from clipdex.web.convertors import ITEM_ID
from clipdex.web.metrics import note
from clipdex.web.problems import answers
from clipdex.web.records import rendered, stored_out, version_of
from clipdex.web.schemas.items import (
    MOST_ITEMS,
    AddedOut,
    ItemIn,
    ItemsOut,
    MetadataIn,
    NewItemIn,
    RemovedOut,
    RemoveIn,
    StoredOut,
)
from clipdex.web.served import Chosen, HeldCollection, Writable
from clipdex.web.uploads import (
    content_type,
    file_of,
    form_of,
    json_of,
    picture_bytes,
    unsupported,
    validated,
    vector_of,
)

__all__ = ["router", "stored"]

router = APIRouter(prefix="/v1", tags=["items"])

_ITEMS: TypeAdapter[list[NewItemIn]] = TypeAdapter(Annotated[list[NewItemIn], Field(max_length=MOST_ITEMS)])
_PICTURE_TYPES = ("", "application/octet-stream")


async def stored(held: HeldCollection, key: str | int, version: str | None = None) -> StoredItem:
    """Return a picture by its id or row. version: of its content, if the caller has seen it.

    Raises:
        ItemNotFound: there is none, or it has another version.
    """
    found = await held.collection.get(key)
    if found is None:
        what = f"item {key!r}" if isinstance(key, str) else f"picture in row {key}"
        raise ItemNotFound(f"{held.name} has no {what}")
    if version is not None and version != version_of(found.content_hash):
        raise ItemNotFound(f"{held.name} has another picture in row {found.row} than version {version!r:.40}")
    return found


@router.get("/items", response_model=ItemsOut, summary="List pictures", responses=answers())
async def listed(
    held: Chosen,
    request: Request,
    after: Annotated[int, Query(ge=-1, lt=1 << 63, description="List the pictures after this row.")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """List the pictures of the index by row: items, and those of folders."""
    found = await held.collection.after(after, limit + 1)

    def make() -> ItemsOut:
        more = len(found) > limit
        return ItemsOut(
            items=[stored_out(held, request, each) for each in found[:limit]],
            next=found[limit - 1].row if more else None,
        )

    return await rendered(make)


@router.get(f"/items/{{id:{ITEM_ID}}}", response_model=StoredOut, summary="Get an item", responses=answers(404))
async def one(held: Chosen, request: Request, id: str) -> Response:
    """Get an item by its id."""
    found = await stored(held, id)
    return await rendered(lambda: stored_out(held, request, found))


@router.get("/pictures/{row}", response_model=StoredOut, summary="Get a picture", responses=answers(404))
async def picture(
    held: Chosen,
    request: Request,
    row: int,
    v: Annotated[str | None, Query(max_length=64, description="Its version, as hits have it.")] = None,
) -> Response:
    """Get a picture by its row."""
    found = await stored(held, row, v)
    return await rendered(lambda: stored_out(held, request, found))


_PICTURE_OR_JSON = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ItemIn.model_json_schema()},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.put(
    f"/items/{{id:{ITEM_ID}}}",
    response_model=AddedOut,
    summary="Add or replace an item",
    responses=answers(409, 507),
    openapi_extra=_PICTURE_OR_JSON,
)
async def put(
    held: Writable,
    request: Request,
    id: str,
    metadata: Annotated[
        str | None, Query(max_length=10_000, description="Of a picture that is the body: an object in JSON.")
    ] = None,
) -> Response:
    """Add an item, or replace the one of this id. The body is a picture file, or JSON.

    It is durable, and found by searches, when the answer comes.
    """
    kind = content_type(request)
    if kind == "application/json":
        if metadata is not None:
            raise InvalidArgument("metadata is in the query, but the body is JSON; put it into the body")
        item = await asyncio.to_thread(_item, held, id, await json_of(request, ItemIn))
    elif kind in _PICTURE_TYPES or kind.startswith("image/"):
        said = None if metadata is None else validated(dict[str, Any], metadata, "metadata")
        item = await asyncio.to_thread(_of_file, held, id, await request.body(), said)
    else:
        raise unsupported(request, "application/json", "a picture, such as image/jpeg")
    await _add(held, item)
    note(request.state, added=1)
    return await rendered(lambda: AddedOut(added=1))


@router.post(
    "/items",
    response_model=AddedOut,
    summary="Add items",
    responses=answers(409, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "array",
                        "items": {"$ref": "#/components/schemas/NewItemIn"},
                        "maxItems": MOST_ITEMS,
                    }
                },
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "id": {"type": "string"},
                            "image": {"type": "string", "format": "binary"},
                            "metadata": {"type": "string", "description": "An object in JSON."},
                        },
                        "required": ["id", "image"],
                    }
                },
            },
        }
    },
)
async def add(held: Writable, request: Request) -> Response:
    """Add items, or replace those of the same ids: a list in JSON, or one item in a form.

    If some cannot be added, the answer is a problem that names them; the others were added.
    """
    kind = content_type(request)
    if kind == "application/json":
        given = await json_of(request, _ITEMS)
        added = await _add_several(held, given)
    elif kind == "multipart/form-data":
        await _add(held, await _of_form(held, request))
        added = 1
    else:
        raise unsupported(request, "application/json", "multipart/form-data")
    note(request.state, added=added)
    return await rendered(lambda: AddedOut(added=added))


@router.patch(
    f"/items/{{id:{ITEM_ID}}}",
    response_model=StoredOut,
    summary="Replace the metadata of an item",
    responses=answers(404, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": MetadataIn.model_json_schema()}},
        }
    },
)
async def patch(held: Writable, request: Request, id: str) -> Response:
    """Replace the metadata of an item."""
    given = await json_of(request, MetadataIn)
    await held.collection.update_metadata(id, given.metadata)
    found = await stored(held, id)
    return await rendered(lambda: stored_out(held, request, found))


@router.delete(f"/items/{{id:{ITEM_ID}}}", status_code=204, summary="Remove an item", responses=answers(404, 507))
async def delete(held: Writable, id: str) -> Response:
    """Remove an item. Pictures of folders are not items."""
    if not await held.collection.remove(id):
        raise ItemNotFound(f"{held.name} has no item {id!r}")
    return Response(status_code=204)


@router.post(
    "/items/remove",
    response_model=RemovedOut,
    summary="Remove items",
    responses=answers(507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": RemoveIn.model_json_schema()}},
        }
    },
)
async def remove(held: Writable, request: Request) -> Response:
    """Remove items by their ids. An unknown id is no error."""
    given = await json_of(request, RemoveIn)
    removed = await held.collection.remove(given.ids)
    return await rendered(lambda: RemovedOut(removed=removed))


async def _add(held: HeldCollection, item: Item) -> None:
    if item.vector is None:
        held.require_model()
    await held.collection.add(item)


async def _add_several(held: HeldCollection, given: list[NewItemIn]) -> int:
    failed: dict[str, ClipdexError] = {}

    def made() -> list[Item]:
        items = []
        for each in given:
            try:
                if each.image is not None:
                    held.require_model()
                items.append(_item(held, each.id, each))
            except InvalidArgument as exc:
                failed[each.id] = exc
        return items

    items = await asyncio.to_thread(made)
    try:
        added = await held.collection.add(items)
    except AddFailed as exc:
        failed |= exc.failures
        added = exc.added
    if failed:
        first, error = next(iter(failed.items()))
        others = f", and {len(failed) - 1:,} more" if len(failed) > 1 else ""
        why = str(error).removeprefix(f"the item {first!r}: ")
        raise AddFailed(f"the item {first!r}{others} could not be added ({added:,} were): {why}", failed, added)
    return added


def _item(held: HeldCollection, item_id: str, given: ItemIn) -> Item:
    most = held.settings.max_upload_bytes
    image = None if given.image is None else picture_bytes(given.image, most)
    vector = None if given.vector is None else vector_of(given.vector)
    return Item(item_id, image, vector, given.metadata)


def _of_file(held: HeldCollection, item_id: str, data: bytes, metadata: dict[str, Any] | None) -> Item:
    if not data:
        raise InvalidArgument("the body is empty; expected the bytes of a picture file")
    return Item(item_id, data, metadata=metadata)


async def _of_form(held: HeldCollection, request: Request) -> Item:
    form = await form_of(request)
    try:
        item_id, said = form.get("id"), form.get("metadata")
        if not isinstance(item_id, str) or not (said is None or isinstance(said, str)):
            raise InvalidArgument("expected the fields id and image, and metadata as JSON, in the form")
        data = await file_of(form.get("image"), held.settings.max_upload_bytes)
    finally:
        await form.close()
    metadata = None if said is None else validated(dict[str, Any], said, "metadata")
    return await asyncio.to_thread(_of_file, held, item_id, data, metadata)
