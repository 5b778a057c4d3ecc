"""Hits in answers."""

from __future__ import annotations

from pydantic import BaseModel, Field

from clipdex.web.schemas.items import StoredOut

__all__ = ["HitOut", "HitsOut"]


class HitOut(StoredOut):
    """One hit of a search."""

    score: float = Field(description="Cosine similarity with the query, from -1 to 1.", examples=[0.31])
    copies: list[HitOut] = Field(default_factory=list, description="Near-duplicates, if they are grouped.")


class HitsOut(BaseModel):
    """A page of hits, best first."""

    hits: list[HitOut]
    offset: int = Field(description="Number of better hits that were skipped.")
    next_offset: int | None = Field(description="`offset` of the next page; null after the last.")
    pictures: int = Field(description="Number of pictures in the index.")
    cut: list[str] = Field(
        default_factory=list,
        description="Ends of the query's texts beyond the model's context, which were ignored.",
    )
