"""A picture's metadata as JSON: bounded, and valid for any JSON parser."""

from __future__ import annotations

from collections.abc import Mapping

from clipdex.base.json_text import compact, plain, plain_text

__all__ = ["LONGEST_FIELD", "metadata_json"]

LONGEST_FIELD = 64 << 10  # characters of JSON


def metadata_json(fields: Mapping[str, object]) -> str:
    """Return the fields as a JSON object, without those that are None, binary, or longer than 64 KiB.

    Dates, decimals and the like become text; NaN and infinity, which JSON lacks, become null, and lone surrogates
    U+FFFD.
    """
    parts = []
    for name, value in fields.items():
        if value is None or isinstance(value, (bytes, bytearray, memoryview)):
            continue
        try:
            text = compact(plain(value))
        except (ValueError, RecursionError):
            continue  # nested too deeply, or an integer of more than 4,300 digits
        if len(text) <= LONGEST_FIELD:
            parts.append(f"{compact(plain_text(name))}:{text}")
    return "{" + ",".join(parts) + "}"
