"""The base class and field types of all request bodies."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Finite", "RequestModel", "RowNumber", "SmallText", "VectorIn"]

_WIDEST = 65_536  # numbers of a vector; a model's embedding has about a thousand
_MOST_UNKNOWN = 16  # fields of which each is told


class RequestModel(BaseModel):
    """The body of a request: unknown fields are errors, and no type is converted to another."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, data: Any) -> Any:
        """Refuse many unknown fields at once: an error of each would take a thousand times the body's memory."""
        if isinstance(data, dict) and len(data) > len(cls.model_fields) + _MOST_UNKNOWN:
            raise ValueError(f"it has {len(data):,} fields; expected only {', '.join(cls.model_fields)}")
        return data


Finite = Annotated[float, Field(allow_inf_nan=False)]
RowNumber = Annotated[int, Field(ge=0, lt=1 << 63)]
SmallText = Annotated[str, Field(min_length=1, max_length=10_000)]
VectorIn = Annotated[list[Finite], Field(min_length=1, max_length=_WIDEST, fail_fast=True)]
