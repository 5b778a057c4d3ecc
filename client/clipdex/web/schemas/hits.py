"""Hits and pictures, as answers have them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

__all__ = ["HitOut", "HitsOut"]


class HitOut(BaseModel):
    """One hit of a search."""

    row: int = Field(description="Row of the picture; compaction renumbers rows.", examples=[17])
    id: str | None = Field(
        description="Id of an item; null for a picture of a folder.", examples=["user-17/heart"]
    )
    score: float = Field(description="Cosine similarity with the query, from -1 to 1.", examples=[0.31])
    name: str = Field(description="Last part of the path, or the id.", examples=["heart.jpg"])
    path: str | None = Field(default=None, description="Path on the server, where it shows paths.")
    width: int = Field(description="In pixels; 0 if unknown.")
    height: int
    size: int = Field(description="Of the file, in bytes.")
    modified: str = Field(
        description="Time of the last change, ISO 8601 in UTC.", examples=["2026-11-28T09:30:00Z"]
    )
    metadata: dict[str, Any]
    version: str = Field(description="First 16 hex digits of the content's hash.", examples=["9a0b1c2d3e4f5061"])
    thumbnail: str = Field(
        description="URL of the thumbnail.", examples=["/v1/pictures/17/thumbnail?v=9a0b1c2d3e4f5061"]
    )
    original: str | None = Field(default=None, description="URL of the file; null if there is none.")
    copies: list[HitOut] = Field(default_factory=list, description="Near-duplicates, if they are grouped.")


class HitsOut(BaseModel):
    """A page of hits, best first."""

    hits: list[HitOut]
    offset: int = Field(description="Number of better hits that were skipped.")
    next_offset: int | None = Field(description="`offset` of the next page; null after the last.")
    pictures: int = Field(description="Number of pictures in the index.")
