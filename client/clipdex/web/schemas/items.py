"""Items in requests and answers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from clipdex.web.schemas.base import RequestModel, VectorIn

__all__ = ["AddedOut", "ItemIn", "ItemsOut", "MetadataIn", "NewItemIn", "RemoveIn", "RemovedOut", "StoredOut"]

MOST_ITEMS = 1_000  # in one request

_Id = Annotated[str, Field(min_length=1, max_length=1024, examples=["user-17/heart"])]


class StoredOut(BaseModel):
    """A picture of the index."""

    row: int = Field(description="Row of the picture; compaction renumbers rows.", examples=[17])
    id: str | None = Field(
        description="Id of an item; null for a picture of a folder.", examples=["user-17/heart"]
    )
    name: str = Field(description="Last part of the path, or the id.", examples=["heart.jpg"])
    path: str | None = Field(default=None, description="Path on the server, if it shows paths.")
    width: int = Field(description="In pixels; 0 if unknown.", examples=[640])
    height: int = Field(examples=[480])
    size: int = Field(description="Of the file, in bytes.", examples=[48123])
    modified: str = Field(
        description="Time of the last change, ISO 8601 in UTC.", examples=["2026-11-28T09:30:00Z"]
    )
    metadata: dict[str, Any] = Field(examples=[{"title": "a red heart"}])
    version: str = Field(description="First 16 hex digits of the content's hash.", examples=["9a0b1c2d3e4f5061"])
    thumbnail: str = Field(
        description="URL of the thumbnail.", examples=["/v1/pictures/17/thumbnail?v=9a0b1c2d3e4f5061"]
    )
    original: str | None = Field(default=None, description="URL of the file; null if there is none.")


class ItemsOut(BaseModel):
    """A page of pictures, by row."""

    items: list[StoredOut]
    next: int | None = Field(description="`after` of the next page; null after the last.")


class ItemIn(RequestModel):
    """A picture, or its vector; exactly one of them."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"vector": [0.6, 0.8], "metadata": {"title": "a dog"}}]}
    )

    image: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="A picture file in base64, or as a data URI."
    )
    vector: VectorIn | None = Field(default=None, description="A vector of norm 1 of the index's model.")
    metadata: dict[str, Any] | None = Field(default=None, description="At most 64 KiB per field and 1 MiB in all.")


class NewItemIn(ItemIn):
    """An item to add."""

    id: _Id


class AddedOut(BaseModel):
    """The number of items that were added."""

    added: int = Field(examples=[1])


class MetadataIn(RequestModel):
    """Metadata that replaces an item's."""

    metadata: dict[str, Any] = Field(examples=[{"title": "a red heart"}])


class RemoveIn(RequestModel):
    """Items to remove."""

    ids: Annotated[list[_Id], Field(max_length=10_000)]


class RemovedOut(BaseModel):
    """The number of items that were removed; unknown ids do not count."""

    removed: int = Field(examples=[1])
