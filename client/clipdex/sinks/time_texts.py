"""Times that conditions compare as texts, as the numbers that every database can order.

Any text divides the times into those before it and the others. So to compare them with it is to compare a number
with a bound, which is found by bisection.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

__all__ = ["first_mtime", "first_taken", "taken_number"]

_TAKEN = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The seconds that SQLite's datetime() can say: of the years 0001 to 9999, as Python.
_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799


def taken_number(taken: str) -> int | None:
    """Return a time as `Exif.taken` has it as a number: 2024-06-01T17:30:00 as 20240601173000; None for others."""
    found = _TAKEN.fullmatch(taken)
    return None if found is None else int("".join(found.groups()))


def first_taken(text: str, *, after: bool) -> int:
    """Return the least number whose time is at least a text, or greater if `after`; 10¹⁴ if there is none."""
    return _first(0, 10**14, _taken_text, text, after)


def first_mtime(text: str, *, after: bool) -> int:
    """Return the least second since 1970 that is said in UTC, as `modified` is, by a text of at least `text`.

    after: greater than it. One second more than the year 9999 has if there is none.
    """
    return _first(_FIRST_S, _LAST_S + 1, _modified_text, text, after)


def _first(low: int, high: int, said: Callable[[int], str], text: str, after: bool) -> int:
    while low < high:
        middle = (low + high) // 2
        shown = said(middle)
        if shown > text if after else shown >= text:
            high = middle
        else:
            low = middle + 1
    return low


def _taken_text(number: int) -> str:
    n = f"{number:014d}"
    return f"{n[:4]}-{n[4:6]}-{n[6:8]}T{n[8:10]}:{n[10:12]}:{n[12:]}"


def _modified_text(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%d %H:%M:%S").rjust(19, "0")
