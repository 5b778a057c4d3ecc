"""JSON from outside: of a server, a file or a tar. Whatever is in it, it is parsed or a ValueError is raised."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

__all__ = ["parse_json", "parse_plain_json"]

# A card nests three deep. Deeper than this, what walks over it would run out of stack before the parser does.
_DEEPEST = 64


def parse_json(text: str | bytes) -> Any:
    """Parse JSON, as Python's own parser does; what it raises beside ValueError becomes one.

    Raises:
        ValueError: it is not JSON, not UTF-8, or nested deeper than can be parsed.
    """
    return _parsed(text)


def parse_plain_json(text: str | bytes) -> Any:
    """Parse JSON of values that a program can rely on: finite numbers, no name twice, Unicode texts, 64 levels.

    Raises:
        ValueError: it is not JSON, or holds something else.
    """
    data = _parsed(
        text, parse_constant=_no_constant, parse_float=_finite_float, object_pairs_hook=_object_of_single_names
    )
    level = [data]
    for _ in range(_DEEPEST):
        level = [value for each in level for value in _values(each)]
        if not level:
            return data
    raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def _parsed(text: str | bytes, **hooks: Any) -> Any:
    try:
        return json.loads(text, **hooks)
    except RecursionError as exc:
        raise ValueError("it is nested too deep") from exc


def _values(value: object) -> list[object]:
    """What is in a container; nothing of anything else."""
    if isinstance(value, dict):
        for name in value:
            _check_unicode(name)
        return list(value.values())
    if isinstance(value, str):
        _check_unicode(value)
    return value if isinstance(value, list) else []


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ValueError("a text in it holds half of a surrogate pair") from exc


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:20]}, which is too large for a number")
    return value


def _object_of_single_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it holds {twice[:80]!r} twice")
    return found
