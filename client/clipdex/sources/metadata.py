"""What comes with a picture, as JSON: bounded, and readable by any JSON parser."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

__all__ = ["LONGEST_FIELD", "metadata_json"]

LONGEST_FIELD = 64 << 10  # characters of JSON


def metadata_json(fields: Mapping[str, object]) -> str:
    """-> JSON of an object, without the fields that are None, binary, or longer than 64 KiB.

    Dates, decimals and the like become text; NaN and infinity, which JSON has no word for, become null.
    """
    parts = []
    for name, value in fields.items():
        if value is None or isinstance(value, (bytes, bytearray, memoryview)):
            continue
        try:
            text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
        except (ValueError, RecursionError):
            continue  # nested beyond all reason, or a whole number of more than 4,300 digits
        if len(text) <= LONGEST_FIELD:
            parts.append(f"{json.dumps(name, ensure_ascii=False)}:{text}")
    # A lone surrogate (a byte that was not UTF-8) becomes the six characters that JSON writes for it.
    return ("{" + ",".join(parts) + "}").encode("utf-8", "backslashreplace").decode()


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        inner = {str(key): item for key, item in value.items()}
        return {key: _plain(item) for key, item in inner.items() if not isinstance(item, bytes)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value if not isinstance(item, bytes)]
    return str(value)
