"""The bodies of searches."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from clipdex.web.schemas.base import Finite, RequestModel, RowNumber, SmallText, VectorIn

__all__ = [
    "ATTACHED",
    "CONDITION",
    "MOST_HITS",
    "MOST_OFFSET",
    "PICTURE",
    "GroupIn",
    "OptionsIn",
    "PartIn",
    "SearchIn",
    "few_params",
]

MOST_HITS = 1_000
MOST_OFFSET = 1_000_000
ATTACHED = "attached"  # instead of a picture: the next file of the multipart body
_MOST_PARTS = 64
_MOST_PARAMS = 1_000


def few_params(params: Any) -> Any:
    """Refuse very many parameters before each is found wrong."""
    if isinstance(params, dict) and len(params) > _MOST_PARAMS:
        raise ValueError(f"there are {len(params):,} parameters; expected {_MOST_PARAMS:,} at most")
    return params


CONDITION = "Condition in SQL on the columns that `/v1/columns` lists."
PICTURE = f"A picture file in base64 or as a data URI; in a multipart body `{ATTACHED}`, for its next file."


def _require_one(given: dict[str, Any], what: str) -> None:
    there = [name for name, value in given.items() if value is not None]
    if len(there) != 1:
        found = ", ".join(there) or "none"
        raise ValueError(f"{what} is exactly one of {', '.join(given)}; found {found}")


class PartIn(RequestModel):
    """A part of a mixture."""

    text: SmallText | None = Field(default=None, examples=["a beach"])
    image: Annotated[str, Field(min_length=1)] | None = Field(default=None, description=PICTURE)
    id: SmallText | None = Field(default=None, description="Id of an item.")
    row: RowNumber | None = Field(default=None, description="Row of a picture.")
    weight: Finite = Field(default=1.0, description="Negative to subtract the part.", examples=[1.0])

    @model_validator(mode="after")
    def _one(self) -> PartIn:
        _require_one({"text": self.text, "image": self.image, "id": self.id, "row": self.row}, "a part")
        return self


class GroupIn(RequestModel):
    """How near-duplicates are recognised; files with the same bytes always are."""

    similarity: Annotated[Finite, Field(gt=0, le=1)] | None = Field(
        default=0.92, description="Minimum similarity of perceptual signatures."
    )
    cosine: Annotated[Finite, Field(gt=0, le=1)] | None = Field(
        default=None, description="Minimum cosine similarity."
    )


class OptionsIn(RequestModel):
    """Options of a search."""

    top_k: int = Field(default=20, ge=1, le=MOST_HITS, description="Number of hits.")
    offset: int = Field(default=0, ge=0, le=MOST_OFFSET, description="Number of better hits to skip.")
    min_score: Annotated[Finite, Field(ge=-1, le=1)] | None = Field(
        default=None, description="Minimum cosine similarity of a hit."
    )
    where: SmallText | None = Field(
        default=None,
        description=CONDITION,
        examples=["width > 1000"],
    )
    params: Annotated[dict[str, str | int | Finite | None], BeforeValidator(few_params)] | None = Field(
        default=None, description="Values of the condition's `:name` parameters."
    )
    group: bool | GroupIn = Field(default=False, description="Make near-duplicates one hit.")


class SearchIn(OptionsIn):
    """A search by exactly one of `text`, `parts`, `image`, `id`, `row` and `vector`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "a dog on a beach", "top_k": 5},
                {"parts": [{"text": "a beach"}, {"text": "people", "weight": -0.5}], "where": "width > 1000"},
                {"row": 0, "group": True},
            ]
        }
    )

    text: SmallText | None = Field(default=None, description="What the pictures should show.")
    parts: Annotated[list[PartIn], Field(min_length=1, max_length=_MOST_PARTS)] | None = None
    image: Annotated[str, Field(min_length=1)] | None = Field(default=None, description=PICTURE)
    id: SmallText | None = Field(default=None, description="Find the pictures nearest to this item.")
    row: RowNumber | None = Field(default=None, description="Find the pictures nearest to this picture.")
    vector: VectorIn | None = Field(default=None, description="A vector of norm 1 of the index's model.")

    @model_validator(mode="after")
    def _one(self) -> SearchIn:
        names = ("text", "parts", "image", "id", "row", "vector")
        _require_one({name: getattr(self, name) for name in names}, "a search")
        return self
