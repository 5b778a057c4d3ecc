"""The base class and field types of all request bodies."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Finite", "RequestModel", "RowNumber", "SmallText", "VectorIn"]

_WIDEST = 65_536  # numbers of a vector; a model's embedding has about a thousand


class RequestModel(BaseModel):
    """The body of a request: unknown fields are errors, and no type is converted to another."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Finite = Annotated[float, Field(allow_inf_nan=False)]
RowNumber = Annotated[int, Field(ge=0, lt=1 << 63)]
SmallText = Annotated[str, Field(min_length=1, max_length=10_000)]
VectorIn = Annotated[list[Finite], Field(min_length=1, max_length=_WIDEST)]
