"""Items in requests and answers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from clipdex.web.schemas.base import RequestModel, VectorIn

__all__ = [
    "AddedOut",
    "ExifOut",
    "ItemIn",
    "ItemsOut",
    "MetadataIn",
    "NewItemIn",
    "RemoveIn",
    "RemovedOut",
    "StoredOut",
]

MOST_ITEMS = 1_000  # in one request

_Id = Annotated[str, Field(min_length=1, max_length=1024, examples=["user-17/heart"])]


class ExifOut(BaseModel):
    """What a picture's file says of itself, in EXIF, XMP or IPTC; null where it says nothing."""

    taken: str | None = Field(
        default=None, description="When, by the camera's clock.", examples=["2024-06-01T17:30:00"]
    )
    taken_offset: str | None = Field(
        default=None, description="Offset of the camera's clock from UTC.", examples=["+02:00"]
    )
    make: str | None = Field(default=None, description="Maker of the camera.", examples=["Canon"])
    camera: str | None = Field(default=None, description="Model of the camera.", examples=["Canon EOS R6"])
    lens: str | None = Field(default=None, examples=["RF 50mm F1.8 STM"])
    latitude: float | None = Field(default=None, description="In degrees.", examples=[48.137154])
    longitude: float | None = Field(default=None, description="In degrees.", examples=[11.576124])
    rating: int | None = Field(default=None, description="0 to 5; -1 if rejected.", examples=[4])
    keywords: list[str] = Field(default_factory=list, examples=[["beach", "family"]])
    title: str | None = Field(default=None, examples=["The beach"])
    description: str | None = Field(default=None, examples=["Our summer at the sea."])


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
    exif: ExifOut | None = Field(
        default=None, description="What its file says of it; null if that is nothing, or was not read."
    )
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

    ids: Annotated[list[_Id], Field(max_length=10_000, fail_fast=True)]


class RemovedOut(BaseModel):
    """The number of items that were removed; unknown ids do not count."""

    removed: int = Field(examples=[1])
