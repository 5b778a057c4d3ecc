"""How metadata keys and values are written in conditions, and what a list of values in JSON has."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, TypeAlias

from clipdex.base.errors import InvalidArgument
from clipdex.base.json_text import parse_json

__all__ = ["LONGEST_VALUE", "Value", "is_plain_key", "listed", "literal", "of_key"]

Value: TypeAlias = "str | int | float"

LONGEST_VALUE = 200  # characters of a value, or of a metadata key, that is counted


def is_plain_key(key: str) -> bool:
    """Return whether `->>` takes a key as it is: not as a path."""
    return 0 < len(key) <= LONGEST_VALUE and not key.startswith(("$", "[")) and not set(key) & {'"', "\\", "\0"}


def of_key(key: str) -> str:
    """Write the value of a metadata key in SQL. Raises InvalidArgument for one that is not plain."""
    if not is_plain_key(key):
        raise InvalidArgument(
            f'the metadata key {key!r:.60} cannot be counted by; expected one without ", \\ and zero bytes that '
            "does not begin with $ or ["
        )
    return f"meta ->> {literal(key)}"


def literal(value: Value) -> str:
    """Write a value in SQL."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(int(value) if isinstance(value, bool) else value)


def listed(text: Any) -> list[Any]:
    """Return the values in a JSON list, each once."""
    with suppress(ValueError, TypeError):
        found = parse_json(text)
        if isinstance(found, list):
            return list(dict.fromkeys(each for each in found if isinstance(each, (str, int, float))))
    return []
