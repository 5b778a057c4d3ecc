"""A namespace of a Pinecone index. It has not met the real service: see docs/vector-databases.md."""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from clipdex.base.arrays import Vectors
from clipdex.base.errors import InvalidArgument, SinkError
from clipdex.sinks.conditions import AllOf, AnyOf, Compare, Condition, Contains, OneOf, Operator, Present
from clipdex.sinks.sink import Field, Found, Point, Points, translated

__all__ = ["PineconeSink"]

_SUFFIX = "__clipdex"  # of the namespace that has the description
_THE_POINT = "description"
_AT_ONCE = 100  # ids in a URL
_LONGEST = 64 << 10  # bytes of a description
_SETTLED_S = 60.0
_OPERATORS: dict[Operator, str] = {"=": "$eq", "<>": "$ne", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}


class PineconeSink:
    """A namespace, and beside it one of a single record that has the description.

    Numbers of a payload come back as floating-point ones, as Pinecone keeps them.
    """

    most_points = 1_000
    most_bytes = 2_000_000
    number_bytes = 22  # as JSON
    most_payload = 40_000

    def __init__(self, index: Any, namespace: str, place: str) -> None:
        """index: a client's, of an index by cosine similarity. place: how to name the namespace."""
        self.place = place
        self._index = index
        self._name = namespace
        self._described = namespace + _SUFFIX
        self._lsn: int | None = None  # of the last write

    def description(self) -> str | None:
        """See `Sink`."""
        with translated(self.place):
            found = self._index.fetch(ids=[_THE_POINT], namespace=self._described).vectors
            if _THE_POINT not in found:
                if self._held(self._name):
                    raise SinkError(f"{self.place} was not made by clipdex: choose another namespace")
                return None
            packed = base64.b64decode(str((found[_THE_POINT].metadata or {}).get("text", "")), validate=True)
            return zlib.decompressobj().decompress(packed, _LONGEST).decode("ascii")

    def create(self, dim: int, fields: Sequence[Field]) -> None:
        """See `Sink`: namespaces need no making, and all metadata is indexed. The index itself has to be there."""
        with translated(self.place):
            stats = self._index.describe_index_stats()
        if stats.dimension != dim or stats.metric not in (None, "cosine"):
            raise SinkError(
                f"{self.place}: its index takes vectors of {stats.dimension} numbers by "
                f"{stats.metric or 'a metric that it does not say'}; make one of {dim} by cosine"
            )

    def describe(self, text: str) -> None:
        """See `Sink`."""
        packed = base64.b64encode(zlib.compress(text.encode("ascii"), 9)).decode()
        with translated(self.place):
            dim = self._index.describe_index_stats().dimension
            one = {"id": _THE_POINT, "values": [1.0] * dim, "metadata": {"text": packed}}
            self._wrote(self._index.upsert(vectors=[one], namespace=self._described))
            self._settle(self._described)

    def upsert(self, points: Points) -> None:
        """See `Sink`."""
        vectors = points.vectors.tolist()
        sent = [
            {"id": points.ids[i], "values": vectors[i], "metadata": dict(points.payloads[i])}
            for i in range(len(points))
        ]
        with translated(self.place):
            self._wrote(self._index.upsert(vectors=sent, namespace=self._name))

    def delete(self, ids: Sequence[str]) -> None:
        """See `Sink`."""
        if ids:
            with translated(self.place), _if_there():
                self._index.delete(ids=list(ids), namespace=self._name)

    def flush(self) -> None:
        """See `Sink`: waits until reads see the last write, which the service says by its sequence number."""
        with translated(self.place):
            self._settle(self._name)

    def _wrote(self, response: Any) -> None:
        lsn = getattr(response.response_info, "lsn_committed", None)
        if lsn is not None:
            self._lsn = max(lsn, self._lsn or 0)

    def _settle(self, namespace: str) -> None:
        until = time.monotonic() + _SETTLED_S
        while self._lsn is not None:
            seen = self._index.fetch(ids=[_THE_POINT], namespace=namespace).response_info
            reconciled = getattr(seen, "lsn_reconciled", None)
            if reconciled is None or reconciled >= self._lsn:
                break
            if time.monotonic() > until:
                raise SinkError(f"{self.place}: what was written cannot be read {_SETTLED_S:.0f} s later")
            time.sleep(0.2)
        self._lsn = None

    def optimize(self) -> None:
        """See `Sink`: the service does that by itself."""

    def count(self) -> int:
        """See `Sink`."""
        with translated(self.place):
            return self._held(self._name)

    def _held(self, namespace: str) -> int:
        found = self._index.describe_index_stats().namespaces.get(namespace)
        return 0 if found is None else int(found.vector_count)

    def digests(self) -> Iterator[tuple[str, str]]:
        """See `Sink`. A request for every hundred: Pinecone lists ids alone."""
        with translated(self.place):
            for page in self._index.list(namespace=self._name, limit=_AT_ONCE):
                ids = [each.id for each in page.vectors]
                for one, point in self.fetch(ids).items():
                    yield one, str(point.payload.get("digest", ""))

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        """See `Sink`."""
        points: dict[str, Point] = {}
        with translated(self.place):
            for start in range(0, len(ids), _AT_ONCE):
                found = self._index.fetch(ids=list(ids[start : start + _AT_ONCE]), namespace=self._name)
                for name, each in found.vectors.items():
                    points[name] = Point(np.asarray(each.values, np.float32), dict(each.metadata or {}))
        return points

    def query(self, vector: Vectors, top_k: int, condition: Condition | None = None) -> list[Found]:
        """See `Sink`."""
        wanted = None if condition is None else _filter(condition)
        with translated(self.place):
            found = self._index.query(
                vector=vector.tolist(), top_k=top_k, namespace=self._name, filter=wanted, include_metadata=True
            )
        return [Found(each.id, float(each.score), dict(each.metadata or {})) for each in found.matches]

    def drop(self) -> None:
        """See `Sink`."""
        with translated(self.place):
            for namespace in (self._name, self._described):
                with _if_there():
                    self._index.delete_namespace(name=namespace)

    def close(self) -> None:
        """See `Sink`."""
        self._index.close()


@contextmanager
def _if_there() -> Iterator[None]:
    """Take a namespace that is not there for an empty one."""
    try:
        yield
    except Exception as exc:
        if getattr(exc, "status_code", None) != 404:
            raise


def _filter(condition: Condition) -> dict[str, Any]:
    """Return a condition as a filter on metadata.

    Raises:
        InvalidArgument: it compares texts by their order.
    """
    if isinstance(condition, (AllOf, AnyOf)):
        return {"$and" if isinstance(condition, AllOf) else "$or": [_filter(part) for part in condition.parts]}
    field = condition.field
    if isinstance(condition, Present):
        return {field: {"$exists": condition.present}}
    if isinstance(condition, Contains):
        if condition.negated:
            return {"$or": [{field: {"$exists": False}}, {field: {"$nin": [condition.value]}}]}
        return {field: {"$in": [condition.value]}}  # of a list: one of its texts is
    if isinstance(condition, OneOf):
        said: dict[str, Any] = {field: {"$nin" if condition.negated else "$in": list(condition.values)}}
        return _of_those_that_have_it(field, said) if condition.negated else said
    assert isinstance(condition, Compare)
    if isinstance(condition.value, str) and condition.operator not in ("=", "<>"):
        raise InvalidArgument(
            f"the filter compares {field} with {condition.value!r:.60} by order, which Pinecone does for numbers "
            "alone; compare a number, such as mtime"
        )
    said = {field: {_OPERATORS[condition.operator]: condition.value}}
    return _of_those_that_have_it(field, said) if condition.operator == "<>" else said


def _of_those_that_have_it(field: str, said: dict[str, Any]) -> dict[str, Any]:
    return {"$and": [{field: {"$exists": True}}, said]}
