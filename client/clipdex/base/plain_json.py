"""JSON that any parser reads: no NaN, no half of a surrogate pair, and an object where one is expected."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from clipdex.base.untrusted_json import parse_json

__all__ = ["compact", "parsed_object", "plain", "plain_text", "valid"]


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
