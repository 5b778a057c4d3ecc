"""What a vector database has to do, and the records that go in and out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from clipdex.base.arrays import Vectors
from clipdex.base.errors import ClipdexError, SinkError
from clipdex.sinks.conditions import Condition

__all__ = ["Field", "Found", "Kind", "Payload", "Point", "Points", "Sink", "Value", "translated"]

Kind: TypeAlias = Literal["int", "real", "text", "texts", "bool"]
Value: TypeAlias = "int | float | str | bool | list[str]"
Payload: TypeAlias = "dict[str, Value]"


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn what a database's client raises into a SinkError. place: the collection, as in `Sink.place`."""
    try:
        yield
    except ClipdexError:
        raise
    except Exception as exc:
        raise SinkError(f"{place}: {' '.join(str(exc).split()):.300}") from exc


@dataclass(frozen=True)
class Field:
    """A column of a collection.

    column: its name there: letters, digits and underscores. key: for a field of the pictures' metadata, its name
    in it; None for the others, which an index itself has.
    """

    column: str
    kind: Kind
    key: str | None = None


@dataclass(frozen=True)
class Points:
    """Pictures to upsert: ids are UUIDs, vectors float32 (n, D) of norm 1, a payload for each."""

    ids: Sequence[str]
    vectors: Vectors
    payloads: Sequence[Payload]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Point:
    """A stored picture: its vector, float32 (D,), and its payload."""

    vector: Vectors
    payload: Mapping[str, Value]


@dataclass(frozen=True)
class Found:
    """One hit of a query: the point's id, its cosine with the query, and its payload."""

    id: str
    score: float
    payload: Mapping[str, Value]


class Sink(Protocol):
    """A collection in a vector database. Every method but `close` may raise SinkError.

    place: how to name it in a sentence, such as `the collection photos of Qdrant at localhost:6333`.
    most_points, most_bytes: what one `upsert` may carry. number_bytes: what one number of a vector takes of them.
    most_payload: bytes of the longest payload of a point, as JSON.
    """

    place: str
    most_points: int
    most_bytes: int
    number_bytes: int
    most_payload: int

    def description(self) -> str | None:
        """Return the text that `describe` stored; None if there is no such collection, or it has none."""

    def create(self, dim: int, fields: Sequence[Field]) -> None:
        """Create the collection by cosine similarity, with its fields and the indexes that filters need.

        Does nothing where that is already done; finishes it where it was interrupted.

        Raises:
            SinkError: there is such a collection, made for something else.
        """

    def describe(self, text: str) -> None:
        """Store a text with the collection, durable when this returns; at most 32 KiB of ASCII."""

    def upsert(self, points: Points) -> None:
        """Insert points, or replace those of the same id. Durable when `flush` returns."""

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points; ids that are not there are no error. Durable when `flush` returns."""

    def flush(self) -> None:
        """Make everything before durable, and visible to `count`, `fetch`, `digests` and `query`."""

    def optimize(self) -> None:
        """Build what makes searches fast, after an upload; returns when queries use it."""

    def count(self) -> int:
        """Count the points exactly."""

    def digests(self) -> Iterator[tuple[str, str]]:
        """Iterate over (id, the payload's `digest`) of all points, in any order."""

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        """Read points by id; those that are not there are left out."""

    def query(self, vector: Vectors, top_k: int, condition: Condition | None = None) -> list[Found]:
        """Find the points nearest to a vector, float32 (D,) of norm 1, best first.

        Raises:
            InvalidArgument: the condition cannot be expressed there.
        """

    def drop(self) -> None:
        """Delete the collection and its description."""

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
