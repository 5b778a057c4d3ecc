"""A vector database in memory, exact, with SQL's meaning of conditions: what the real ones are compared with."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clipdex.sinks.conditions import AllOf, AnyOf, Compare, Condition, Contains, OneOf, Present
from clipdex.sinks.sink import Field, Found, Point, Points

_OPERATORS = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def meets(payload: dict[str, Any], condition: Condition) -> bool:
    """Whether a payload meets a condition whose fields are columns."""
    if isinstance(condition, AllOf):
        return all(meets(payload, part) for part in condition.parts)
    if isinstance(condition, AnyOf):
        return any(meets(payload, part) for part in condition.parts)
    value = payload.get(condition.field)
    if isinstance(condition, Present):
        return (value is not None) is condition.present
    if isinstance(condition, Contains):
        held = value if isinstance(value, list) else [value]
        return (condition.value in held) is not condition.negated
    if value is None:
        return False
    if isinstance(condition, OneOf):
        return (value in condition.values) is not condition.negated
    assert isinstance(condition, Compare)
    return bool(_OPERATORS[condition.operator](value, condition.value))


class NumpySink:
    """Everything in dictionaries. `points` is what is there."""

    place = "the collection in memory"
    most_points = 100
    most_bytes = 1 << 20
    number_bytes = 4
    most_payload = 1 << 19

    def __init__(self) -> None:
        self.text: str | None = None
        self.points: dict[str, Point] = {}
        self.fields: Sequence[Field] = ()
        self.calls: list[str] = []
        self.fails_at = -1  # the call that raises

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if len(self.calls) == self.fails_at:
            raise ConnectionError("killed")

    def description(self) -> str | None:
        return self.text

    def create(self, dim: int, fields: Sequence[Field]) -> None:
        self._called("create")
        self.fields = fields

    def describe(self, text: str) -> None:
        self._called("describe")
        self.text = text

    def upsert(self, points: Points) -> None:
        self._called(f"upsert {len(points)}")
        for i, each in enumerate(points.ids):
            self.points[each] = Point(points.vectors[i], points.payloads[i])

    def delete(self, ids: Sequence[str]) -> None:
        self._called(f"delete {len(ids)}")
        for each in ids:
            self.points.pop(each, None)

    def flush(self) -> None:
        self._called("flush")

    def optimize(self) -> None:
        self._called("optimize")

    def count(self) -> int:
        return len(self.points)

    def digests(self) -> Iterator[tuple[str, str]]:
        yield from [(each, str(point.payload["digest"])) for each, point in self.points.items()]

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        return {each: self.points[each] for each in ids if each in self.points}

    def query(self, vector: np.ndarray, top_k: int, condition: Condition | None = None) -> list[Found]:
        found = [
            Found(each, float(point.vector @ vector), point.payload)
            for each, point in self.points.items()
            if condition is None or meets(dict(point.payload), condition)
        ]
        return sorted(found, key=lambda hit: (-hit.score, hit.id))[:top_k]

    def drop(self) -> None:
        self.points, self.text = {}, None

    def close(self) -> None:
        pass
