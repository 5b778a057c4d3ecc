"""A word of the command line with its weight behind it: `beach:0.5`."""

from __future__ import annotations

import re

from clipdex.base.errors import InvalidArgument

__all__ = ["weighted_name", "weighted_text"]

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_WEIGHTED = re.compile(rf"(.*):({_NUMBER})", re.DOTALL)


def weighted_text(word: str) -> tuple[str, float]:
    """-> a text and its weight, 1 if none is written.

    A weight is a number after the last colon; right after a digit only if it has a decimal point. So a text that
    happens to end like one is written with a weight behind it.
    Example: beach:0.5 -> beach, 0.5; ratio 16:9 -> ratio 16:9, 1; ratio 16:9:0.5 -> ratio 16:9, 0.5

    Raises:
        InvalidArgument: the text is empty, or the weight is 0 or out of range.
    """
    found = _WEIGHTED.fullmatch(word)
    # 16:9 and 12:30 are words.
    if found and found[1][-1:].isdigit() and "." not in found[2]:
        found = None
    return _split(word, found)


def weighted_name(word: str) -> tuple[str, float]:
    """-> the name of a file, or a row, and its weight, 1 if none is written.

    Example: a.jpg:0.5 -> a.jpg, 0.5; 17:2 -> 17, 2

    Raises:
        InvalidArgument: the name is empty, or the weight is 0 or out of range.
    """
    return _split(word, _WEIGHTED.fullmatch(word))


def _split(word: str, found: re.Match[str] | None) -> tuple[str, float]:
    name, weight = (found[1], float(found[2])) if found else (word, 1.0)
    if not name.strip():
        raise InvalidArgument(f"a part of the query is empty ({word!r}); say what the pictures should show")
    if not 1e-6 <= abs(weight) <= 1e6:
        raise InvalidArgument(
            f"the weight of {name!r} is {weight:g}; expected a number from 0.000001 to 1000000 "
            f"(if it is no weight, write one behind it: {word}:1.0)"
        )
    return name, weight
