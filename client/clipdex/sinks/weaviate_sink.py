"""A collection of a Weaviate server. It has not met the real service: see docs/vector-databases.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clipdex.base.arrays import Vectors
from clipdex.base.errors import InvalidArgument, SinkError
from clipdex.base.extras import needs
from clipdex.sinks.conditions import AllOf, AnyOf, Compare, Condition, Contains, OneOf, Present
from clipdex.sinks.sink import Field, Found, Payload, Point, Points, translated

with needs("weaviate", "weaviate-client", "weaviate", "Weaviate"):
    from weaviate.classes.config import Configure, DataType, Property, Tokenization, VectorDistances
    from weaviate.classes.data import DataObject
    from weaviate.classes.query import Filter, MetadataQuery

__all__ = ["WeaviateSink"]

_SUFFIX = "__clipdex"  # of the collection that has the description
_THE_OBJECT = "00000000-0000-8000-8000-000000000000"
_VECTOR = "picture"  # the name of the vectors
_AT_ONCE = 1_000
_ID = "item_id"  # Weaviate keeps `id` for itself
# Numbers are all floating-point ones there, which hold every integer of a payload exactly.
_KINDS = {
    "int": DataType.NUMBER,
    "real": DataType.NUMBER,
    "text": DataType.TEXT,
    "texts": DataType.TEXT_ARRAY,
    "bool": DataType.BOOL,
}


class WeaviateSink:
    """A collection, and beside it one of a single object that has the description.

    Integers of a payload come back as floating-point numbers.
    """

    most_points = 1_000
    most_bytes = 8 << 20
    number_bytes = 4
    most_payload = 4 << 20

    def __init__(self, client: Any, collection: str, place: str) -> None:
        """client: a connected one, which is closed with the sink. place: how to name the collection."""
        self.place = place
        self._client = client
        self._name = collection[0].upper() + collection[1:]  # as Weaviate does
        self._described = self._name + _SUFFIX

    def description(self) -> str | None:
        """See `Sink`."""
        with translated(self.place):
            if not self._client.collections.exists(self._described):
                if self._client.collections.exists(self._name):
                    raise SinkError(f"{self.place} was not made by clipdex: choose another collection")
                return None
            found = self._client.collections.use(self._described).query.fetch_objects(limit=1).objects
        return str(found[0].properties["text"]) if found else None

    def create(self, dim: int, fields: Sequence[Field]) -> None:
        """See `Sink`. The width of the vectors is that of the first."""
        plain = [_property("metadata", "text", False), _property("digest", "text", False)]
        with translated(self.place):
            if not self._client.collections.exists(self._described):
                text = [_property("text", "text", False)]
                self._client.collections.create(
                    self._described, properties=text, vector_config=Configure.Vectors.self_provided(name=_VECTOR)
                )
            if not self._client.collections.exists(self._name):
                self._client.collections.create(
                    self._name,
                    properties=[_property(_named(each.column), each.kind, True) for each in fields] + plain,
                    vector_config=Configure.Vectors.self_provided(
                        name=_VECTOR,
                        vector_index_config=Configure.VectorIndex.hnsw(distance_metric=VectorDistances.COSINE),
                    ),
                    # Without it nothing can be asked about fields that have no value.
                    inverted_index_config=Configure.inverted_index(index_null_state=True),
                )

    def describe(self, text: str) -> None:
        """See `Sink`."""
        self._insert(self._described, [DataObject(properties={"text": text}, uuid=_THE_OBJECT)])

    def upsert(self, points: Points) -> None:
        """See `Sink`."""
        vectors = points.vectors.tolist()
        self._insert(
            self._name,
            [
                DataObject(
                    properties={_named(name): value for name, value in points.payloads[i].items()},
                    uuid=points.ids[i],
                    vector={_VECTOR: vectors[i]},
                )
                for i in range(len(points))
            ],
        )

    def _insert(self, name: str, objects: Sequence[Any]) -> None:
        with translated(self.place):
            done = self._client.collections.use(name).data.insert_many(objects)
            if done.has_errors:
                first = next(iter(done.errors.values()))
                raise SinkError(f"{self.place} refused {len(done.errors):,} points: {first.message!s:.300}")

    def delete(self, ids: Sequence[str]) -> None:
        """See `Sink`."""
        if ids:
            with translated(self.place):
                self._client.collections.use(self._name).data.delete_many(
                    where=Filter.by_id().contains_any(list(ids))
                )

    def flush(self) -> None:
        """See `Sink`: what Weaviate has acknowledged is in its log and can be read."""

    def optimize(self) -> None:
        """See `Sink`: the graph grows with every point."""

    def count(self) -> int:
        """See `Sink`."""
        with translated(self.place):
            found = self._client.collections.use(self._name).aggregate.over_all(total_count=True)
        return int(found.total_count)

    def digests(self) -> Iterator[tuple[str, str]]:
        """See `Sink`."""
        with translated(self.place):
            objects = self._client.collections.use(self._name).iterator(
                return_properties=["digest"], cache_size=_AT_ONCE
            )
            for each in objects:
                yield str(each.uuid), str(each.properties.get("digest") or "")

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        """See `Sink`."""
        if not ids:
            return {}
        with translated(self.place):
            found = self._client.collections.use(self._name).query.fetch_objects(
                filters=Filter.by_id().contains_any(list(ids)), limit=len(ids), include_vector=True
            )
        return {
            str(each.uuid): Point(np.asarray(each.vector[_VECTOR], np.float32), _payload(each.properties))
            for each in found.objects
        }

    def query(self, vector: Vectors, top_k: int, condition: Condition | None = None) -> list[Found]:
        """See `Sink`."""
        wanted = None if condition is None else _filter(condition)
        with translated(self.place):
            found = self._client.collections.use(self._name).query.near_vector(
                vector.tolist(),
                target_vector=_VECTOR,
                limit=top_k,
                filters=wanted,
                return_metadata=MetadataQuery(distance=True),
            )
        return [
            Found(str(each.uuid), 1.0 - float(each.metadata.distance), _payload(each.properties))
            for each in found.objects
        ]

    def drop(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            for name in (self._name, self._described):
                self._client.collections.delete(name)

    def close(self) -> None:
        """See `Sink`."""
        self._client.close()


def _named(column: str) -> str:
    return _ID if column == "id" else column


def _property(name: str, kind: str, filtered: bool) -> Any:
    """Describe a property by its kind: texts are compared whole, and numbers have an index of ranges."""
    of_texts = kind in ("text", "texts")
    return Property(
        name=name,
        data_type=_KINDS[kind],
        index_filterable=filtered,
        index_searchable=False if of_texts else None,
        index_range_filters=True if filtered and kind in ("int", "real") else None,
        tokenization=Tokenization.FIELD if of_texts else None,
        skip_vectorization=True,
    )


def _payload(properties: Any) -> Payload:
    return {"id" if name == _ID else name: value for name, value in dict(properties).items() if value is not None}


def _filter(condition: Condition) -> Any:
    """Return a condition as a filter.

    Raises:
        InvalidArgument: it compares texts by their order.
    """
    if isinstance(condition, (AllOf, AnyOf)):
        parts = [_filter(part) for part in condition.parts]
        return Filter.all_of(parts) if isinstance(condition, AllOf) else Filter.any_of(parts)
    there = Filter.by_property(_named(condition.field))
    if isinstance(condition, Present):
        return there.is_none(not condition.present)
    if isinstance(condition, Contains):
        if condition.kind != "texts":
            value = _value(condition.value)
            return (
                Filter.any_of([there.is_none(True), there.not_equal(value)])
                if condition.negated
                else there.equal(value)
            )
        if not condition.negated:
            return there.contains_any([condition.value])
        if not hasattr(there, "contains_none"):
            raise InvalidArgument(
                f"the filter asks for lists of {condition.field} without a text, which this weaviate-client "
                "cannot express; see docs/vector-databases.md"
            )
        return Filter.any_of([there.is_none(True), there.contains_none([condition.value])])
    if isinstance(condition, OneOf):
        values = [_value(each) for each in condition.values]
        if not condition.negated:
            return Filter.any_of([there.equal(each) for each in values])
        return Filter.all_of([there.is_none(False), *(there.not_equal(each) for each in values)])
    assert isinstance(condition, Compare)
    if condition.operator == "=":
        return there.equal(_value(condition.value))
    if condition.operator == "<>":
        return Filter.all_of([there.is_none(False), there.not_equal(_value(condition.value))])
    if isinstance(condition.value, str):
        raise InvalidArgument(
            f"the filter compares {condition.field} with {condition.value!r:.60} by order, which is done for "
            "numbers alone in Weaviate; compare a number, such as mtime"
        )
    how = {
        "<": there.less_than,
        "<=": there.less_or_equal,
        ">": there.greater_than,
        ">=": there.greater_or_equal,
    }[condition.operator]
    return how(float(condition.value))


def _value(value: int | float | str) -> Any:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
