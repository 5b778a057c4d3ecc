"""Matches by local features in requests and answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from clipdex.features.matching import DEFAULT_MIN_INLIERS, DEFAULT_TOP_K, WITHIN
from clipdex.web.schemas.base import Finite, RequestModel, SmallText
from clipdex.web.schemas.items import StoredOut
from clipdex.web.schemas.queries import CONDITION, PICTURE, few_params

__all__ = ["MOST_MATCHES", "MatchIn", "MatchOut", "MatchesOut"]

MOST_MATCHES = 100  # four times as many pictures are compared point by point
_MOST_INLIERS = 16_384

Point = Annotated[list[float], Field(min_length=2, max_length=2)]
Corners = Annotated[list[Point], Field(min_length=4, max_length=4)]
Matrix = Annotated[
    list[Annotated[list[float], Field(min_length=3, max_length=3)]], Field(min_length=3, max_length=3)
]

_BEACH = [[40.0, 0.0], [120.0, 0.0], [120.0, 60.0], [40.0, 60.0]]


class MatchIn(RequestModel):
    """A picture to find by local features, and options."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image": "iVBORw0KGgo=", "top_k": 5, "where": "width > 1000"}]}
    )

    image: Annotated[str, Field(min_length=1)] | None = Field(default=None, description=PICTURE)
    top_k: int = Field(default=DEFAULT_TOP_K, ge=1, le=MOST_MATCHES, description="Most pictures to return.")
    min_inliers: int = Field(
        default=DEFAULT_MIN_INLIERS,
        ge=4,
        le=_MOST_INLIERS,
        description="Fewest points that must agree; fewer find more, and more wrongly.",
    )
    parts: bool = Field(
        default=False,
        description="Also pictures that have only a part in common with it, such as an icon or a heading.",
    )
    within: SmallText | None = Field(
        default=None,
        description=f"Only among the {WITHIN:,} pictures that best match this text.",
        examples=["a beach"],
    )
    where: SmallText | None = Field(default=None, description=CONDITION, examples=["width > 1000"])
    params: Annotated[dict[str, str | int | Finite | None], BeforeValidator(few_params)] | None = Field(
        default=None, description="Values of the condition's `:name` parameters."
    )


class MatchOut(StoredOut):
    """A picture that the query shows a part of, or that shows a part of it."""

    inliers: int = Field(description="Points at different places that agree with the transform.", examples=[45])
    share: float = Field(
        description="Of the points where the two overlap, of the picture with fewer, from 0 to 1.", examples=[0.6]
    )
    contained: float = Field(
        description="Share of the area of one of the two that the other shows, of that with the larger share.",
        examples=[0.98],
    )
    spread: float = Field(
        description="How evenly these points lie where the two overlap: 1 as if drawn at random, less if they "
        "keep to a part.",
        examples=[0.9],
    )
    inlier_ratio: float = Field(
        description="Of the pairs of points that look alike where the two overlap, the share that agrees with the "
        "transform.",
        examples=[0.95],
    )
    mirrored: bool = Field(description="The query has left and right exchanged.", examples=[False])
    model: Literal["affine", "homography"] = Field(description="Kind of the transform.", examples=["affine"])
    transform: Matrix = Field(
        description="3 × 3, from the query's pixels to the picture's.",
        examples=[[[0.5, 0.0, 40.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]]],
    )
    region: Corners = Field(
        description="Where the query's corners are in the picture, in pixels, from its upper left clockwise; "
        "outside the picture where the query shows more than it.",
        examples=[_BEACH],
    )
    region_fractions: Corners = Field(
        description="The region in shares of the picture's width and height.",
        examples=[[[x / 200, y / 150] for x, y in _BEACH]],
    )


class MatchesOut(BaseModel):
    """The pictures that match, those with the most inliers first; none if the index does not have the picture."""

    matches: list[MatchOut]
    pictures: int = Field(description="Number of pictures in the index.")
