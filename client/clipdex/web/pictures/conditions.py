"""Conditions and ranges of requests (RFC 9110), and names of files in answers (RFC 6266)."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import quote

__all__ = ["attachment", "matches", "range_of"]

_TAG = re.compile(r'\s*(?:W/)?("[^"]*")\s*(?:,|$)')
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,20})\s*-\s*(\d{0,20})\s*", re.IGNORECASE)
_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+,=@~-]")


def matches(if_none_match: str | None, tag: str) -> bool:
    """Return whether an If-None-Match names a tag, such as `"abc"`, so that the answer is 304."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag in _TAG.findall(if_none_match)


def range_of(
    asked: str | None, if_range: str | None, tag: str, size: int
) -> tuple[int, int] | Literal["unsatisfiable"] | None:
    """Return the [start, end) of a Range header; None to send the whole: it has none, several or a wrong one."""
    if asked is None or (if_range is not None and if_range.strip() != tag):
        return None
    found = _RANGE.fullmatch(asked.strip())
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    return (start, end) if start < end else "unsatisfiable"


def attachment(name: str) -> str:
    """Return a Content-Disposition that saves the answer under a name, whatever is in it."""
    name = name.encode("utf-8", "replace").decode()[-200:]
    plain = _PLAIN.sub("_", name).strip() or "picture"
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
