"""Conditions as SQL, for databases that speak it. Fields are columns whose names clipdex made."""

from __future__ import annotations

from collections.abc import Callable

from clipdex.sinks.conditions import AllOf, AnyOf, Compare, Condition, Contains, OneOf, Present, Scalar

__all__ = ["quoted_text", "sql_of"]


def sql_of(
    condition: Condition, value: Callable[[Scalar], str], contains: Callable[[str, str], str], collated: str = ""
) -> str:
    """Return a condition as SQL.

    Args:
        value: returns a value as a literal, or as a placeholder for it.
        contains: returns the SQL for: the list in this column has this literal. NULL counts as false.
        collated: what follows a column of text that is compared by order, so that it is compared by code points.
    """
    if isinstance(condition, (AllOf, AnyOf)):
        joint = " AND " if isinstance(condition, AllOf) else " OR "
        return "(" + joint.join(sql_of(part, value, contains, collated) for part in condition.parts) + ")"
    column = f'"{condition.field}"' if collated else condition.field
    if isinstance(condition, Present):
        return f"({column} IS {'NOT ' if condition.present else ''}NULL)"
    if isinstance(condition, Contains):
        held = contains(column, value(condition.value)) if condition.kind == "texts" else None
        held = held or f"{column} = {value(condition.value)}"
        return f"(NOT coalesce({held}, false))" if condition.negated else f"({held})"
    if isinstance(condition, OneOf):
        values = ", ".join(value(each) for each in condition.values)
        return f"({column} {'NOT ' if condition.negated else ''}IN ({values}))"
    assert isinstance(condition, Compare)
    by_order = isinstance(condition.value, str) and condition.operator not in ("=", "<>")
    return f"({column}{collated if by_order else ''} {condition.operator} {value(condition.value)})"


def quoted_text(text: str) -> str:
    """Return a text as a literal of standard SQL, where a quote is doubled and a backslash is itself."""
    return "'" + text.replace("'", "''") + "'"
