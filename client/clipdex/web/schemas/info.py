"""Facts of an index in answers."""

from __future__ import annotations

from pydantic import BaseModel, Field

__all__ = ["InfoOut"]


class InfoOut(BaseModel):
    """An index, and what may be done with it here."""

    index: str = Field(description="Name of the index.", examples=["pictures"])
    indexes: list[str] = Field(description="Names of all indexes of this server.", examples=[["pictures"]])
    path: str | None = Field(default=None, description="Path on the server, if it shows paths.")
    model: str = Field(description="Model that made the vectors.", examples=["shapes-16"])
    fingerprint: str = Field(description="Identity of the model: vectors of another are refused.")
    embedding_dim: int = Field(description="Dimensions of a vector.", examples=[512])
    dtype: str = Field(examples=["float16"])
    pictures: int = Field(examples=[1000])
    removed: int = Field(description="Rows of removed pictures that compaction would drop.", examples=[0])
    failures: dict[str, int] = Field(description="Files that could not be indexed, by reason.")
    with_features: int = Field(description="Pictures with local features, which `/v1/match` finds.", examples=[0])
    bytes_on_disk: int
    first_commit: str | None = Field(description="ISO 8601 in UTC.", examples=["2026-11-28T09:30:00Z"])
    last_commit: str | None = Field(description="ISO 8601 in UTC.", examples=["2026-11-28T09:30:00Z"])
    has_model: bool = Field(description="Whether texts and pictures can be searched for.")
    allows_write: bool = Field(description="Whether items can be added, changed and removed.")
    shows_paths: bool = Field(description="Whether answers have paths, and filters may use them.")
    version: str = Field(description="Version of clipdex.")
