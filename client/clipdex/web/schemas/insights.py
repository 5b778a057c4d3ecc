"""Labels, duplicates, failures, columns and facets in requests and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from clipdex.web.schemas.base import RequestModel, RowNumber, SmallText
from clipdex.web.schemas.items import StoredOut

__all__ = [
    "MOST_LABELS",
    "ClassifiedOut",
    "ClassifyIn",
    "ColumnOut",
    "ColumnsOut",
    "DuplicateOut",
    "DuplicatesOut",
    "FacetOut",
    "FacetsOut",
    "FailureOut",
    "FailuresOut",
    "GroupOut",
    "LabelOut",
    "ValueOut",
]

MOST_LABELS = 1_000
_MOST_TEMPLATES = 100

Value = str | int | float


class ClassifyIn(RequestModel):
    """Labels, and a picture to classify: exactly one of `image`, `id` and `row`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"labels": ["a dog", "a cat"], "row": 0, "templates": ["a photo of {}"]}]}
    )

    labels: Annotated[list[SmallText], Field(min_length=1, max_length=MOST_LABELS)] = Field(
        description="Words for what the picture may show."
    )
    templates: Annotated[list[SmallText], Field(min_length=1, max_length=_MOST_TEMPLATES)] | None = Field(
        default=None, description="Texts with {} in the place of the label (default `a photo of a {}`)."
    )
    image: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="A picture file in base64, or as a data URI."
    )
    id: SmallText | None = Field(default=None, description="Id of an item.")
    row: RowNumber | None = Field(default=None, description="Row of a picture.")


class LabelOut(BaseModel):
    """A label, and how well it fits."""

    label: str = Field(examples=["a dog"])
    probability: float = Field(description="From 0 to 1.", examples=[0.97])
    score: float = Field(description="Cosine similarity of the label and the picture.", examples=[0.27])


class ClassifiedOut(BaseModel):
    """The labels, the most probable first."""

    labels: list[LabelOut]


class PlacementOut(BaseModel):
    """Which region of a picture is which of the keeper: corners in shares of width and height, in one order."""

    points: int = Field(description="Number of local features that agree.", examples=[45])
    mirrored: bool = Field(description="Left and right are exchanged.")
    of_keeper: list[tuple[float, float]]
    of_duplicate: list[tuple[float, float]]


class DuplicateOut(StoredOut):
    """A picture of a group of duplicates."""

    relation: Literal["keeper", "exact", "near", "semantic", "local"] = Field(
        description="To the keeper: the same bytes, the same look, a close vector, or a part of it or around it."
    )
    similarity: float = Field(
        description="To the keeper: of signatures or vectors, or the share of agreeing points; 1 for equal bytes."
    )
    cosine: float = Field(description="Cosine similarity to the keeper.")
    placement: PlacementOut | None = Field(default=None, description="Of local duplicates only.")


class GroupOut(BaseModel):
    """Duplicates of one picture."""

    pictures: list[DuplicateOut] = Field(description="The one to keep first; 100 at most.")
    size: int = Field(description="Number of pictures in the group.", examples=[2])


class DuplicatesOut(BaseModel):
    """A page of groups of duplicates."""

    kind: str = Field(examples=["perceptual"])
    groups: list[GroupOut]
    total: int = Field(description="Number of groups.", examples=[1])
    duplicates: int = Field(description="Number of pictures in them besides those to keep.", examples=[1])
    offset: int
    next_offset: int | None = Field(description="`offset` of the next page; null after the last.")
    pictures: int = Field(description="Number of pictures that were compared.")
    unsigned: int = Field(description="Pictures without a perceptual signature: only their bytes were compared.")
    stale: bool = Field(description="There are commits since, and a newer answer is being computed.")


class FailureOut(BaseModel):
    """A file that could not be indexed."""

    name: str = Field(description="Last part of its path.", examples=["broken.jpg"])
    path: str | None = Field(default=None, description="Path on the server, if it shows paths.")
    reason: str = Field(description="Why, in one word.", examples=["truncated"])
    detail: str = Field(description="Why, in a sentence.")


class FailuresOut(BaseModel):
    """A page of the files that could not be indexed, by path."""

    failures: list[FailureOut]
    total: int = Field(examples=[1])
    offset: int
    next_offset: int | None = Field(description="`offset` of the next page; null after the last.")


class ValueOut(BaseModel):
    """A value, and how many pictures of a sample have it."""

    value: Value = Field(examples=["Ada"])
    count: int = Field(examples=[3])


class ColumnOut(BaseModel):
    """A column that conditions may use, or a metadata key."""

    name: str = Field(examples=["width"])
    sql: str = Field(description="How a condition names it.", examples=["width", "meta ->> 'by'"])
    kind: Literal["integer", "real", "text", "time", "list"]
    there: bool = Field(description="Whether any picture has a value.")
    of_metadata: bool = Field(description="Whether it is a metadata key.")
    least: Value | None = Field(description="Least value of numbers and times.", examples=[64])
    greatest: Value | None = Field(examples=[4096])
    values: list[ValueOut] = Field(description="Most frequent texts of a sample of the pictures.")


class ColumnsOut(BaseModel):
    """Columns that conditions may use."""

    columns: list[ColumnOut]
    sampled: int = Field(description="Pictures in the sample that values and metadata keys are from.")
    stale: bool = Field(description="There are commits since, and a newer answer is being computed.")


class FacetOut(BaseModel):
    """A value, how many pictures have it, and the condition that finds them."""

    value: Value = Field(examples=["2026-11"])
    count: int = Field(examples=[12])
    where: str = Field(examples=["substr(modified, 1, 7) = '2026-11'"])


class FacetsOut(BaseModel):
    """How many pictures have each value: the most frequent first, or the latest time."""

    by: str = Field(examples=["modified"])
    values: list[FacetOut]
    distinct: int = Field(description="Number of different values, of which `values` may be a part.")
    missing: int = Field(description="Pictures without a value.")
    others: int = Field(description="Pictures with values that are not in `values`.")
    sampled: int | None = Field(
        description="Null if all pictures were counted; of more than 50,000, the number of those that were. "
        "Then the counts are estimates, and `distinct` is of the sample."
    )
    stale: bool = Field(description="There are commits since, and a newer answer is being computed.")
