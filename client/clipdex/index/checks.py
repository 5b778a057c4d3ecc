"""Checks that several files of an index share: of counts, of JSON, and of the rows that a side file is for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import google_crc32c

from clipdex.base.records import Extent

__all__ = ["digest", "is_stored_count", "json_crc32c"]

_MOST = 1 << 48  # of rows, and of anything else that an index counts


def is_stored_count(value: object) -> bool:
    """Return whether a value from an index's file is a count: an int, at least 0 and below 2^48."""
    return type(value) is int and 0 <= value < _MOST


def json_crc32c(data: Mapping[str, object]) -> int:
    """Compute the CRC-32C of JSON: ASCII, names sorted, no blanks."""
    return int(google_crc32c.value(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()))


def digest(extents: Sequence[Extent]) -> str:
    """Identify rows by a hash of their extents, which include the CRC-32C of their bytes."""
    text = "".join(f"{extent.first_row},{extent.row_count},{extent.crc32c};" for extent in extents)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
