"""Embeddings and models, in the shape that OpenAI's clients send and read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from clipdex.web.schemas.base import RequestModel

__all__ = [
    "MOST_INPUTS",
    "CutOut",
    "EmbeddingIn",
    "EmbeddingOut",
    "EmbeddingsOut",
    "ImageUrl",
    "InputPart",
    "ModelOut",
    "ModelsOut",
    "UsageOut",
]

MOST_INPUTS = 2048
_MOST_CHARACTERS = 100_000  # of a text; of a picture the body's size is the limit

_Text = Annotated[str, Field(min_length=1)]


class ImageUrl(RequestModel):
    """A picture, as in the parts of chat messages."""

    url: _Text = Field(description="A data URI: `data:image/…;base64,…`.")
    detail: Literal["auto", "low", "high"] | None = Field(default=None, description="Without effect.")


class InputPart(RequestModel):
    """A text or a picture, as in the parts of chat messages."""

    type: Literal["text", "input_text", "image_url", "input_image"]
    text: _Text | None = None
    image_url: _Text | ImageUrl | None = None

    @model_validator(mode="after")
    def _of_its_type(self) -> InputPart:
        wants = "text" if self.type in ("text", "input_text") else "image_url"
        other = "image_url" if wants == "text" else "text"
        if getattr(self, wants) is None or getattr(self, other) is not None:
            raise ValueError(f"a part of the type {self.type} has exactly the field {wants}")
        return self


def _shape(value: object) -> str:
    """Say which of several a value is meant to be, so that only its faults are told."""
    return "list" if isinstance(value, list) else "part" if isinstance(value, (dict, InputPart)) else "text"


_One = Annotated[Annotated[_Text, Tag("text")] | Annotated[InputPart, Tag("part")], Discriminator(_shape)]
_Several = Annotated[list[_One], Field(min_length=1, max_length=MOST_INPUTS)]


class EmbeddingIn(RequestModel):
    """Texts and pictures to embed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "clipdex", "input": "a dog on a beach"},
                {"model": "clipdex", "input": ["a dog", "a cat"], "encoding_format": "base64"},
            ]
        }
    )

    model: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="Name of the model, as `/v1/models` lists it, or `clipdex` for the only one that is served."
    )
    input: Annotated[Annotated[_Text, Tag("text")] | Annotated[_Several, Tag("list")], Discriminator(_shape)] = (
        Field(description="A text, or a picture as a data URI (`data:image/…;base64,…`), or a list of them.")
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64 means base64 of little-endian float32."
    )
    dimensions: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Dimensions of a vector; only the model's own number is accepted."
    )
    user: Annotated[str, Field(max_length=1000)] | None = Field(default=None, description="Without effect.")

    @model_validator(mode="before")
    @classmethod
    def _not_tokens(cls, data: Any) -> Any:
        given = data.get("input") if isinstance(data, dict) else None
        of = given[0] if isinstance(given, list) and given else None
        if type(of) is int or (isinstance(of, list) and of and type(of[0]) is int):
            raise ValueError(
                "input has token ids; expected texts or pictures, since each model has its own tokens"
            )
        return data

    @model_validator(mode="after")
    def _short_enough(self) -> EmbeddingIn:
        for each in [self.input] if isinstance(self.input, str) else self.input:
            text = each if isinstance(each, str) else each.text
            if text is not None and len(text) > _MOST_CHARACTERS and not text[:5].lower() == "data:":
                raise ValueError(f"a text has {len(text):,} characters; expected {_MOST_CHARACTERS:,} at most")
        return self


class EmbeddingOut(BaseModel):
    """The vector of one input."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Place of the input in the list.", examples=[0])
    embedding: list[float] | str = Field(
        description="A vector of norm 1, or base64 of it in little-endian float32.", examples=[[0.6, 0.8]]
    )


class UsageOut(BaseModel):
    """Tokens that were embedded; pictures have none."""

    prompt_tokens: int = Field(examples=[5])
    total_tokens: int = Field(examples=[5])


class CutOut(BaseModel):
    """An end of a text beyond the model's context, which was not embedded."""

    index: int
    text: str


class EmbeddingsOut(BaseModel):
    """Vectors, in the order of their inputs."""

    object: Literal["list"] = "list"
    data: list[EmbeddingOut]
    model: str = Field(examples=["shapes_16"])
    usage: UsageOut
    cut: list[CutOut] = Field(default_factory=list, description="Texts whose ends were not embedded.")


class ModelOut(BaseModel):
    """A model that is served."""

    id: str = Field(examples=["shapes_16"])
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="Always 0: a model has no date.")
    owned_by: str = Field(default="clipdex")
    fingerprint: str = Field(description="Identity of the model: vectors of another cannot be compared.")
    embedding_dim: int = Field(description="Dimensions of a vector.", examples=[512])
    indexes: list[str] = Field(description="Names of the indexes with its vectors.", examples=[["pictures"]])


class ModelsOut(BaseModel):
    """The models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelOut]
