"""Errors in answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ProblemOut"]


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(
        description="`urn:clipdex:` and the name of the error.", examples=["urn:clipdex:ItemNotFound"]
    )
    title: str = Field(examples=["Item not found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="One sentence.", examples=["pets.clipdex has no item 'user-17/heart'"])
    instance: str | None = Field(default=None, description="`urn:request:` and the id of the request.")
    errors: list[dict[str, Any]] | None = Field(
        default=None, description="Fields of the request that are invalid."
    )
    reason: str | None = Field(default=None, description="Why a picture cannot be decoded, in one word.")
    added: int | None = Field(default=None, description="Items that were added nevertheless.")
    failures: dict[str, str] | None = Field(default=None, description="Why items could not be added, by id.")
