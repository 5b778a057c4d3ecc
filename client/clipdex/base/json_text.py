"""Parsing JSON within limits, and writing JSON that any parser can read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

__all__ = ["compact", "parse_json", "parse_plain_json", "parsed_object", "plain", "plain_text", "valid"]

# A card nests three deep. Beyond this, code that walks over it would run out of stack before the parser does.
_DEEPEST = 64


def parse_json(text: str | bytes) -> Any:
    """Parse JSON with Python's own parser, raising only ValueError.

    Raises:
        ValueError: it is not JSON, not UTF-8, or nested deeper than can be parsed.
    """
    return _parsed(text)


def parse_plain_json(text: str | bytes) -> Any:
    """Parse JSON restricted to finite numbers, unique names, valid Unicode and 64 levels.

    Raises:
        ValueError: it is not such JSON.
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
    """List the values in a container; empty for anything else."""
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
        raise ValueError("a text in it contains half of a surrogate pair") from exc


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it contains {name}, which is not a number in JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it contains {text[:20]}, which is too large for a number")
    return value


def _object_of_single_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"it contains the name {twice[:80]!r} twice")
    return found


def plain_text(text: str) -> str:
    """Replace by U+FFFD halves of surrogate pairs, as in a caption cut within an emoji, and bytes not UTF-8.

    jq rejects the first, and with them the whole document.
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def plain(value: object) -> object:
    """Convert a value for JSON: dates and decimals become text, NaN and infinity null; bytes are left out.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        inner = {plain_text(str(key)): item for key, item in value.items()}
        return {key: plain(item) for key, item in inner.items() if not isinstance(item, bytes)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value if not isinstance(item, bytes)]
    return plain_text(str(value))


def compact(value: object) -> str:
    """Write a result of `plain` as JSON without blanks. Raises ValueError or RecursionError if it cannot be."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def parsed_object(text: str) -> dict[str, Any]:
    """Parse the JSON of an object into values as `plain` returns them.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or is not an object.
    """
    try:
        value = plain(parse_json(text))
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def valid(text: str) -> str:
    """Rewrite the JSON of an object so that any parser can read it; text that is not JSON is unchanged."""
    # Older versions let escapes of surrogates through, most of which are complete pairs.
    if "\\u" not in text and "NaN" not in text and "Infinity" not in text:
        return text
    try:
        return compact(parsed_object(text))
    except (ValueError, RecursionError):
        return text
