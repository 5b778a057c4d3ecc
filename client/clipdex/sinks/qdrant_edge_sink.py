"""A Qdrant shard in a folder of this machine, by qdrant-edge: Qdrant's engine without its server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipdex.base.arrays import Vectors
from clipdex.base.errors import SinkError
from clipdex.base.extras import needs
from clipdex.base.replacing import replacing
from clipdex.sinks.conditions import Condition
from clipdex.sinks.qdrant_filter import QdrantFilter
from clipdex.sinks.sink import Field, Found, Payload, Point, Points, translated

with needs("qdrant_edge", "qdrant-edge-py", "qdrant", "a Qdrant shard in a folder"):
    import qdrant_edge

__all__ = ["QdrantEdgeSink"]

_DESCRIPTION = "clipdex.json"
# Its MatchValue takes True for the number 1 (0.9.0), so true and false are stored as 1 and 0.
_KINDS = {"int": "Integer", "real": "Float", "text": "Keyword", "texts": "Keyword", "bool": "Integer"}
_AT_ONCE = 4_096
_EFFORT = 256  # hnsw_ef: candidates of a query; with 100, Qdrant's default, one of fifty hits of 100,000 is missed


class QdrantEdgeSink:
    """A shard in a folder, which one process opens at a time."""

    most_points = 256
    most_bytes = 16 << 20
    number_bytes = 4
    most_payload = 8 << 20

    def __init__(self, folder: Path) -> None:
        """folder: is made by `create`."""
        self.place = f"the Qdrant shard {folder}"
        self._folder = folder
        self._shard: Any = None
        self._filter = QdrantFilter(
            qdrant_edge, qdrant_edge.RangeFloat, qdrant_edge.IsEmptyCondition, qdrant_edge.MatchValue
        )

    def description(self) -> str | None:
        """See `Sink`."""
        try:
            return (self._folder / _DESCRIPTION).read_text(encoding="ascii")
        except FileNotFoundError:
            if self._folder.is_dir() and any(self._folder.iterdir()) and not (self._folder / ".clipdex").exists():
                raise SinkError(
                    f"{self._folder} has files that are not of clipdex; choose another folder"
                ) from None
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise SinkError(f"{self.place}: its description cannot be read: {exc}") from exc

    def create(self, dim: int, fields: Sequence[Field]) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / ".clipdex").touch()
            shard = self._folder / "shard"
            if (shard / "created").exists():
                self._opened()
                return
            if shard.exists():  # interrupted while it was made: nothing is in it
                _remove(shard)
            params = qdrant_edge.EdgeVectorParams(size=dim, distance=qdrant_edge.Distance.Cosine)
            self._shard = qdrant_edge.EdgeShard.create(str(shard), qdrant_edge.EdgeConfig(vectors=params))
            # Before any point: a graph built without them finds half of what a filter lets through.
            for field in fields:
                schema = getattr(qdrant_edge.PayloadSchemaType, _KINDS[field.kind])
                operation = qdrant_edge.UpdateOperation.create_field_index(field.column, schema)
                self._shard.update(operation)
            self._shard.flush()
            (shard / "created").touch()

    def describe(self, text: str) -> None:
        """See `Sink`."""
        with replacing(self._folder / _DESCRIPTION, "the description") as file:
            file.write(text.encode("ascii"))

    def upsert(self, points: Points) -> None:
        """See `Sink`."""
        made = [
            qdrant_edge.Point(points.ids[i], points.vectors[i].tolist(), _stored(points.payloads[i]))
            for i in range(len(points))
        ]
        with translated(self.place):
            self._opened().update(qdrant_edge.UpdateOperation.upsert_points(made))

    def delete(self, ids: Sequence[str]) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._opened().update(qdrant_edge.UpdateOperation.delete_points(list(ids)))

    def flush(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._opened().flush()

    def optimize(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._opened().optimize()

    def count(self) -> int:
        """See `Sink`."""
        with translated(self.place):
            return int(self._opened().count(qdrant_edge.CountRequest(exact=True)))

    def digests(self) -> Iterator[tuple[str, str]]:
        """See `Sink`."""
        after = None
        while True:
            request = qdrant_edge.ScrollRequest(offset=after, limit=_AT_ONCE, with_payload=["digest"])
            with translated(self.place):
                records, after = self._opened().scroll(request)
            for record in records:
                yield str(record.id), str((record.payload or {}).get("digest", ""))
            if after is None:
                return

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        """See `Sink`."""
        with translated(self.place):
            records = self._opened().retrieve(list(ids), with_payload=True, with_vector=True)
        return {
            str(record.id): Point(np.asarray(record.vector, np.float32), dict(record.payload or {}))
            for record in records
        }

    def query(self, vector: Vectors, top_k: int, condition: Condition | None = None) -> list[Found]:
        """See `Sink`."""
        request = qdrant_edge.QueryRequest(
            top_k,
            query=qdrant_edge.Query.Nearest(vector.tolist()),
            with_payload=True,
            filter=None if condition is None else self._filter.of(condition),
            params=qdrant_edge.SearchParams(hnsw_ef=max(_EFFORT, 2 * top_k)),
        )
        with translated(self.place):
            found = self._opened().query(request)
        return [Found(str(each.id), float(each.score), dict(each.payload or {})) for each in found]

    def drop(self) -> None:
        """See `Sink`."""
        self.close()
        _remove(self._folder)

    def close(self) -> None:
        """See `Sink`."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def _opened(self) -> Any:
        if self._shard is None:
            self._shard = qdrant_edge.EdgeShard.load(str(self._folder / "shard"))
        return self._shard


def _stored(payload: Payload) -> dict[str, Any]:
    return {name: int(value) if isinstance(value, bool) else value for name, value in payload.items()}


def _remove(folder: Path) -> None:
    """Remove a folder that this made, with what is in it; links are not followed."""
    for here, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(os.path.join(here, name))
        for name in folders:
            os.rmdir(os.path.join(here, name))
    os.rmdir(folder)
