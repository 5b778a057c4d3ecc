"""JSON that is parsed within bounds, and JSON that any parser reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

__all__ = ["compact", "parse_json", "parse_plain_json", "parsed_object", "plain", "plain_text", "valid"]

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


def plain_text(text: str) -> str:
    """Half of a surrogate pair, as where a caption is cut in an emoji, and bytes that are not UTF-8 become U+FFFD.

    jq refuses the first, and with it the whole of an answer.
    """
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def plain(value: object) -> object:
    """What JSON has a word for: dates and decimals become text, NaN and infinity null, and bytes are left out.

    Raises:
        RecursionError: it is nested beyond all reason.
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
    """JSON of what `plain` gives, without blanks. Raises ValueError or RecursionError if there is none."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def parsed_object(text: str) -> dict[str, Any]:
    """What stands in JSON of an object, plain.

    Raises:
        ValueError: it is not JSON, nested beyond all reason, or of something else.
    """
    try:
        value = plain(parse_json(text))
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


def valid(text: str) -> str:
    """The JSON of an object as any parser reads it. What is no JSON at all stays what it is."""
    # What older versions let through: escapes of surrogates, of which most are whole pairs.
    if "\\u" not in text and "NaN" not in text and "Infinity" not in text:
        return text
    try:
        return compact(parsed_object(text))
    except (ValueError, RecursionError):
        return text
