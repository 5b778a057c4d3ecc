"""A collection of Milvus: a server, or Milvus Lite in a file."""

from __future__ import annotations

import json
import logging
import operator
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clipdex.base.arrays import Vectors
from clipdex.base.errors import SinkError
from clipdex.base.extras import needs
from clipdex.sinks.conditions import AllOf, AnyOf, Compare, Condition, Contains, OneOf, Operator, Present, Scalar
from clipdex.sinks.sink import Field, Found, Payload, Point, Points, translated

with needs("pymilvus", "pymilvus", "milvus", "Milvus"):
    from pymilvus import DataType, MilvusClient

__all__ = ["MilvusSink"]

_SUFFIX = "__clipdex"  # of the collection that has the description
_LONGEST = 65_535  # bytes of a text
_LONGEST_FIELD = 1_024
_MOST_TEXTS = 500
_AT_ONCE = 1_000
# Always there. Of the other fields a point says in `present` which it has: Milvus has NULL only since 2.5.
_REQUIRED = ("path", "name", "size", "width", "height", "mtime", "digest")
_KINDS = {
    "int": DataType.INT64,
    "real": DataType.DOUBLE,
    "text": DataType.VARCHAR,
    "texts": DataType.ARRAY,
    "bool": DataType.BOOL,
}
_NOTHING: dict[str, Any] = {"int": 0, "real": 0.0, "text": "", "texts": [], "bool": False}
_OPERATORS: dict[Operator, Any] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_GRAPH = {"M": 16, "efConstruction": 200}
_EFFORT = 512  # candidates of a query; with 128 one of twenty hits is missed, benchmarks/milvus_graph.py
_SPARE = 4  # times as many with a filter, which lets some of them through
_LARGEST_EFFORT = 32_768  # Milvus takes no more
# How long a server may take for its graphs, and then to give them to the nodes that are asked.
_BUILT_S, _HANDED_OVER_S = 3_600.0, 60.0
_LEAST_OF_A_GRAPH = 1_024  # rows of a segment; Milvus scans smaller ones


class MilvusSink:
    """A collection, and beside it one of a single row that has the description."""

    most_points = 1_000
    most_bytes = 16 << 20
    number_bytes = 4
    most_payload = 65_535  # bytes of a VARCHAR, such as `metadata`

    def __init__(self, client: MilvusClient, collection: str, place: str) -> None:
        """client: an open one, which is closed with the sink. place: how to name the collection."""
        logging.getLogger("pymilvus").setLevel(logging.ERROR)
        self.place = place
        self._client = client
        self._name = collection
        self._described = collection + _SUFFIX
        self._fields: dict[str, str] = {}

    def description(self) -> str | None:
        """See `Sink`."""
        with translated(self.place):
            if not self._client.has_collection(self._described):
                if self._client.has_collection(self._name):
                    raise SinkError(f"{self.place} was not made by clipdex: choose another collection")
                return None
            self._client.load_collection(self._described)
            rows = self._client.get(self._described, ["text"], output_fields=["text"])
        return str(rows[0]["text"]) if rows else None

    def create(self, dim: int, fields: Sequence[Field]) -> None:
        """See `Sink`."""
        self._fields = {field.column: field.kind for field in fields}
        with translated(self.place):
            if not self._client.has_collection(self._described):
                schema = self._schema(1)
                schema.add_field("text", DataType.VARCHAR, max_length=_LONGEST)
                self._create(self._described, schema, "FLAT", [])
            if not self._client.has_collection(self._name):
                schema = self._schema(dim)
                for field in fields:
                    schema.add_field(field.column, _KINDS[field.kind], **_sizes(field.kind))
                schema.add_field("metadata", DataType.VARCHAR, max_length=_LONGEST)
                schema.add_field("digest", DataType.VARCHAR, max_length=16)
                schema.add_field("present", DataType.ARRAY, **_sizes("texts"))
                # Milvus Lite applies a filter to the graph's candidates alone, and misses what lies behind them:
                # recall@10 of 20,000 was 0.91 with a filter that lets 8 % through, and 0.31 with one of 0.2 %.
                kind = "FLAT" if self._is_lite() else "HNSW"
                self._create(self._name, schema, kind, [each.column for each in fields if each.kind != "texts"])
            self._client.load_collection(self._name)

    def _schema(self, dim: int) -> Any:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("point_id", DataType.VARCHAR, is_primary=True, max_length=36)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        return schema

    def _create(self, name: str, schema: Any, kind: str, filtered: Sequence[str]) -> None:
        indexes = self._client.prepare_index_params()
        params = _GRAPH if kind == "HNSW" else {}
        indexes.add_index("vector", index_type=kind, metric_type="COSINE", params=params)
        if self._has_inverted_indexes():
            for column in filtered:
                indexes.add_index(column, index_type="INVERTED")
        self._client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")

    def _has_inverted_indexes(self) -> bool:
        """Whether it is a server of 2.4 or later; Milvus Lite scans, and needs none."""
        numbers = self._version().removeprefix("v").split(".")[:2]
        return all(each.isdigit() for each in numbers) and tuple(map(int, numbers)) >= (2, 4)

    def _is_lite(self) -> bool:
        return self._version().startswith("milvus_lite")

    def _version(self) -> str:
        """Such as v2.3.5 or, of the server in a wheel, v2.3.5-lite; of Milvus Lite, milvus_lite-3.2.2."""
        return str(self._client.get_server_version()).lower()

    def describe(self, text: str) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._client.upsert(self._described, [{"point_id": "text", "vector": [1.0], "text": text}])

    def upsert(self, points: Points) -> None:
        """See `Sink`."""
        if not self._fields:
            raise SinkError(f"{self.place}: upsert before create")
        rows = [
            {"point_id": points.ids[i], "vector": points.vectors[i].tolist(), **self._row(points.payloads[i])}
            for i in range(len(points))
        ]
        with translated(self.place):
            self._client.upsert(self._name, rows)

    def _row(self, payload: Payload) -> dict[str, Any]:
        row = {column: payload.get(column, _NOTHING[kind]) for column, kind in self._fields.items()}
        row["metadata"] = payload.get("metadata", "")
        row["digest"] = payload.get("digest", "")
        row["present"] = [column for column in payload if column not in ("metadata", "digest")]
        return row

    def delete(self, ids: Sequence[str]) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._client.delete(self._name, ids=list(ids))

    def flush(self) -> None:
        """See `Sink`: what Milvus has acknowledged is in its log, and strong consistency sees it."""

    def optimize(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            self._client.flush(self._name)
            self._client.load_collection(self._name)
            if not self._is_lite():
                self._await_graph()

    def _await_graph(self) -> None:
        """Wait until the server has built its graphs, and queries use them: what it asks before finds less."""
        until = time.monotonic() + _BUILT_S
        while time.monotonic() < until:
            built = self._client.describe_index(self._name, "vector")
            if not int(built.get("pending_index_rows", 0)):
                break
            time.sleep(0.5)
        until = time.monotonic() + _HANDED_OVER_S
        while time.monotonic() < until:
            segments = self._client.list_loaded_segments(self._name)
            large = [each for each in segments if each.num_rows >= _LEAST_OF_A_GRAPH]
            if all(each.index_id > 0 for each in large):
                return
            time.sleep(0.5)

    def count(self) -> int:
        """See `Sink`."""
        with translated(self.place):
            return int(self._client.query(self._name, filter="", output_fields=["count(*)"])[0]["count(*)"])

    def digests(self) -> Iterator[tuple[str, str]]:
        """See `Sink`."""
        with translated(self.place):
            pages = self._client.query_iterator(
                self._name, batch_size=_AT_ONCE, output_fields=["point_id", "digest"]
            )
        try:
            while True:
                with translated(self.place):
                    rows = pages.next()
                if not rows:
                    return
                for row in rows:
                    yield str(row["point_id"]), str(row["digest"])
        finally:
            pages.close()

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        """See `Sink`."""
        if not ids:
            return {}
        with translated(self.place):
            rows = self._client.get(self._name, list(ids), output_fields=["*"])
        return {str(row["point_id"]): Point(np.asarray(row["vector"], np.float32), _payload(row)) for row in rows}

    def query(self, vector: Vectors, top_k: int, condition: Condition | None = None) -> list[Found]:
        """See `Sink`."""
        effort = min(_LARGEST_EFFORT, max(_EFFORT, 2 * top_k) * (1 if condition is None else _SPARE))
        with translated(self.place):
            fields = self._client.describe_collection(self._name)["fields"]
            wanted = [field["name"] for field in fields if field["name"] != "vector"]
            found = self._client.search(
                self._name,
                [vector.tolist()],
                limit=top_k,
                filter="" if condition is None else _expression(condition),
                output_fields=wanted,
                search_params={"metric_type": "COSINE", "params": {"ef": effort}},
                consistency_level="Strong",
            )[0]
        return [
            Found(str(hit["entity"]["point_id"]), float(hit["distance"]), _payload(hit["entity"])) for hit in found
        ]

    def drop(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            for name in (self._name, self._described):
                if self._client.has_collection(name):
                    self._client.drop_collection(name)

    def close(self) -> None:
        """See `Sink`."""
        self._client.close()


def _sizes(kind: str) -> dict[str, Any]:
    if kind == "text":
        return {"max_length": _LONGEST}
    if kind == "texts":
        return {"element_type": DataType.VARCHAR, "max_capacity": _MOST_TEXTS, "max_length": _LONGEST_FIELD}
    return {}


def _payload(row: Any) -> dict[str, Any]:
    present = {*row["present"], "digest", *(["metadata"] if row["metadata"] else [])}
    return {
        name: list(value) if isinstance(value, (list, tuple)) or hasattr(value, "__array__") else value
        for name, value in dict(row).items()
        if name in present
    }


def _expression(condition: Condition) -> str:
    """Return a condition as one of Milvus's expressions."""
    if isinstance(condition, (AllOf, AnyOf)):
        joint = " and " if isinstance(condition, AllOf) else " or "
        return "(" + joint.join(map(_expression, condition.parts)) + ")"
    if isinstance(condition, Present):
        has = _is_present(condition.field) or "point_id != ''"
        return f"({has})" if condition.present else f"(not {has})"
    field = condition.field
    if isinstance(condition, Contains):
        value = _literal(condition.value)
        # Without the field, a list is empty.
        held = f"array_contains({field}, {value})" if condition.kind == "texts" else f"{field} == {value}"
        there = None if condition.kind == "texts" else _asks_presence(condition)
        held = held if there is None else f"({there} and {held})"
        return f"(not {held})" if condition.negated else f"({held})"
    if isinstance(condition, OneOf):
        values = ", ".join(map(_literal, condition.values))
        said = f"{field} {'not ' if condition.negated else ''}in [{values}]"
    else:
        assert isinstance(condition, Compare)
        sign = {"=": "==", "<>": "!="}.get(condition.operator, condition.operator)
        said = f"{field} {sign} {_literal(condition.value)}"
    there = _asks_presence(condition)
    return f"({said})" if there is None else f"({there} and {said})"


def _asks_presence(condition: Compare | OneOf | Contains) -> str | None:
    """Return an expression on whether a point has the field; None where what stands for no value cannot be meant.

    Most conditions need none, and reading a list of each point takes long.
    """
    nothing = _NOTHING[condition.kind]
    if isinstance(condition, Compare):
        met = bool(_OPERATORS[condition.operator](nothing, condition.value))
    elif isinstance(condition, OneOf):
        met = (nothing in condition.values) is not condition.negated
    else:
        met = bool(nothing == condition.value)
    return _is_present(condition.field) if met else None


def _is_present(field: str) -> str | None:
    return None if field in _REQUIRED else f'array_contains(present, "{field}")'


def _literal(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
