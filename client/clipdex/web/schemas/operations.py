"""Health and readiness in answers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

__all__ = ["HealthOut", "ReadyOut"]


class HealthOut(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadyOut(BaseModel):
    """The server is ready to answer requests."""

    status: Literal["ready"] = "ready"
    indexes: list[str] = Field(description="Names of the indexes.", examples=[["pictures"]])
    model: bool = Field(description="Whether there is an inference server; it is ready.")
