"""Conditions as Qdrant's filters: of its client, or of its embedded engine, whose classes have the same names."""

from __future__ import annotations

from typing import Any

from clipdex.base.errors import InvalidArgument
from clipdex.sinks.conditions import AllOf, AnyOf, Compare, Condition, Contains, OneOf, Operator, Present, Scalar

__all__ = ["QdrantFilter"]

_BOUNDS: dict[Operator, str] = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


class QdrantFilter:
    """Makes filters.

    models: the module that has the classes. range_of, is_empty, match: make those that differ between the two.
    """

    def __init__(self, models: Any, range_of: Any, is_empty: Any, match: Any) -> None:
        self._models = models
        self._range = range_of
        self._is_empty = is_empty
        self._match = match

    def of(self, condition: Condition) -> Any:
        """Return a condition as a Filter.

        Raises:
            InvalidArgument: it compares texts by their order.
        """
        models = self._models
        if isinstance(condition, AllOf):
            return models.Filter(must=[self.of(part) for part in condition.parts])
        if isinstance(condition, AnyOf):
            return models.Filter(should=[self.of(part) for part in condition.parts])
        if isinstance(condition, Present):
            empty = [self._is_empty(condition.field)]
            return models.Filter(must_not=empty) if condition.present else models.Filter(must=empty)
        if isinstance(condition, Compare):
            if condition.operator in _BOUNDS:
                return models.Filter(must=[self._ordered(condition)])
            same = [self._equal(condition.field, condition.value, condition.kind)]
            return self._negated(condition.field, same) if condition.operator == "<>" else models.Filter(must=same)
        if isinstance(condition, OneOf):
            each = [self._equal(condition.field, value, condition.kind) for value in condition.values]
            return self._negated(condition.field, each) if condition.negated else models.Filter(should=each)
        assert isinstance(condition, Contains)
        held = [self._equal(condition.field, condition.value, condition.kind)]
        return models.Filter(must_not=held) if condition.negated else models.Filter(must=held)

    def _negated(self, field: str, conditions: list[Any]) -> Any:
        """None of the conditions, for points that have the field, as in SQL."""
        return self._models.Filter(must_not=[self._is_empty(field), *conditions])

    def _equal(self, field: str, value: Scalar, kind: str) -> Any:
        models = self._models
        if kind in ("int", "real") and not (kind == "int" and isinstance(value, int)):
            return models.FieldCondition(key=field, range=self._range(gte=float(value), lte=float(value)))
        return models.FieldCondition(key=field, match=self._match(value))

    def _ordered(self, condition: Compare) -> Any:
        if isinstance(condition.value, str):
            raise InvalidArgument(
                f"the filter compares {condition.field} with {condition.value!r:.60} by order, which Qdrant does "
                "for numbers alone; compare a number, such as mtime"
            )
        bound = {_BOUNDS[condition.operator]: float(condition.value)}
        return self._models.FieldCondition(key=condition.field, range=self._range(**bound))
