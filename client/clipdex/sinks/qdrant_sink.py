"""A collection of a Qdrant server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clipdex.base.arrays import Vectors
from clipdex.base.errors import SinkError
from clipdex.base.extras import needs
from clipdex.sinks.conditions import Condition
from clipdex.sinks.qdrant_filter import QdrantFilter
from clipdex.sinks.sink import Field, Found, Point, Points, translated

with needs("qdrant_client", "qdrant-client", "qdrant", "Qdrant"):
    from qdrant_client import QdrantClient, models

__all__ = ["QdrantSink"]

_SUFFIX = "__clipdex"  # of the collection that has the description
_THE_POINT = "00000000-0000-8000-8000-000000000000"
_AT_ONCE = 4_096
_GRAPH = 16  # edges per vector, Qdrant's own default
_EFFORT = 256  # hnsw_ef: candidates of a query, as for the engine without its server
_KINDS = {
    "int": models.PayloadSchemaType.INTEGER,
    "real": models.PayloadSchemaType.FLOAT,
    "text": models.PayloadSchemaType.KEYWORD,
    "texts": models.PayloadSchemaType.KEYWORD,
    "bool": models.PayloadSchemaType.BOOL,
}


class QdrantSink:
    """A collection, and beside it one of a single point that has the description."""

    most_points = 256
    most_bytes = 16 << 20
    number_bytes = 12  # as JSON; gRPC takes less
    most_payload = 8 << 20

    def __init__(self, client: QdrantClient, collection: str, place: str) -> None:
        """client: an open one, which is closed with the sink. place: how to name the collection."""
        self.place = place
        self._client = client
        self._name = collection
        self._described = collection + _SUFFIX
        self._filter = QdrantFilter(
            models,
            models.Range,
            lambda field: models.IsEmptyCondition(is_empty=models.PayloadField(key=field)),
            lambda value: models.MatchValue(value=value),
        )

    def description(self) -> str | None:
        """See `Sink`."""
        with translated(self.place):
            if not self._client.collection_exists(self._described):
                if self._client.collection_exists(self._name):
                    raise SinkError(f"{self.place} was not made by clipdex: choose another collection")
                return None
            records = self._client.retrieve(self._described, [_THE_POINT], with_payload=True)
        text = (records[0].payload or {}).get("text") if records else None
        return text if isinstance(text, str) else None

    def create(self, dim: int, fields: Sequence[Field]) -> None:
        """See `Sink`."""
        with translated(self.place):
            if not self._client.collection_exists(self._described):
                one = models.VectorParams(size=1, distance=models.Distance.COSINE)
                self._client.create_collection(self._described, vectors_config=one)
            if not self._client.collection_exists(self._name):
                # No graph while points come in: `optimize` has it built once, of all of them.
                self._client.create_collection(
                    self._name,
                    vectors_config=models.VectorParams(size=dim, distance=models.Distance.COSINE),
                    hnsw_config=models.HnswConfigDiff(m=0),
                )
            known = self._client.get_collection(self._name).payload_schema
            for field in fields:
                # Before any point: a graph built without them finds half of what a filter lets through.
                if field.column not in known:
                    self._client.create_payload_index(self._name, field.column, _KINDS[field.kind], wait=True)

    def describe(self, text: str) -> None:
        """See `Sink`."""
        point = models.PointStruct(id=_THE_POINT, vector=[1.0], payload={"text": text})
        with translated(self.place):
            self._client.upsert(self._described, [point], wait=True)

    def upsert(self, points: Points) -> None:
        """See `Sink`."""
        batch = models.Batch(
            ids=list(points.ids),
            vectors=points.vectors.tolist(),
            payloads=[dict(each) for each in points.payloads],
        )
        with translated(self.place):
            self._client.upsert(self._name, batch, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._client.delete(self._name, models.PointIdsList(points=list(ids)), wait=True)

    def flush(self) -> None:
        """See `Sink`: every request has waited already."""

    def optimize(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._client.update_collection(self._name, hnsw_config=models.HnswConfigDiff(m=_GRAPH))
            while self._client.get_collection(self._name).status == models.CollectionStatus.YELLOW:
                time.sleep(0.2)

    def count(self) -> int:
        """See `Sink`."""
        with translated(self.place):
            return int(self._client.count(self._name, exact=True).count)

    def digests(self) -> Iterator[tuple[str, str]]:
        """See `Sink`."""
        after: Any = None
        while True:
            with translated(self.place):
                records, after = self._client.scroll(
                    self._name, limit=_AT_ONCE, offset=after, with_payload=["digest"], with_vectors=False
                )
            for record in records:
                yield str(record.id), str((record.payload or {}).get("digest", ""))
            if after is None:
                return

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        """See `Sink`."""
        with translated(self.place):
            records = self._client.retrieve(self._name, list(ids), with_payload=True, with_vectors=True)
        return {
            str(record.id): Point(np.asarray(record.vector, np.float32), dict(record.payload or {}))
            for record in records
        }

    def query(self, vector: Vectors, top_k: int, condition: Condition | None = None) -> list[Found]:
        """See `Sink`."""
        wanted = None if condition is None else self._filter.of(condition)
        with translated(self.place):
            found = self._client.query_points(
                self._name,
                query=vector.tolist(),
                limit=top_k,
                query_filter=wanted,
                search_params=models.SearchParams(hnsw_ef=max(_EFFORT, 2 * top_k)),
                with_payload=True,
            )
        return [Found(str(each.id), float(each.score), dict(each.payload or {})) for each in found.points]

    def drop(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._client.delete_collection(self._name)
            self._client.delete_collection(self._described)

    def close(self) -> None:
        """See `Sink`."""
        self._client.close()
