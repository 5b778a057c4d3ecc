"""Names in braces, as webdataset and shells write many shards at once: `{00000..00099}.tar`, `{a,b}/0.tar`."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from clipdex.base.errors import InvalidArgument

__all__ = ["expanded"]

_MOST = 100_000
_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})(?:\.\.(\d{1,18}))?", re.ASCII)
_LETTERS = re.compile(r"[a-z]\.\.[a-z]|[A-Z]\.\.[A-Z]")


def expanded(text: str) -> list[str]:
    """Every name that is meant, in order; just the text where its braces, if any, mean nothing.

    Braces in braces are not expanded.

    Raises:
        InvalidArgument: they are more than 100,000.
    """
    names = [""]
    end = 0
    for group in _GROUP.finditer(text):
        before, end = text[end : group.start()], group.end()
        choices = _choices(group[1])
        if choices is None:
            choices = [group[0]]
        if len(names) * len(choices) > _MOST:
            raise InvalidArgument(f"{text}: its braces mean more than {_MOST:,} names; give them in parts")
        names = [name + before + choice for name in names for choice in choices]
    return [name + text[end:] for name in names]


def _choices(inside: str) -> Sequence[str] | None:
    """What stands for the braces, one after the other; None where they are a name's own."""
    if found := _RANGE.fullmatch(inside):
        first, last, step = int(found[1]), int(found[2]), max(1, int(found[3] or 1))
        last = min(max(last, first - _MOST * step), first + _MOST * step)  # one too many is enough
        padded = any(len(end) > 1 and end.startswith("0") for end in (found[1], found[2]))
        width = max(len(found[1]), len(found[2])) if padded else 0
        numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
        return [f"{number:0{width}}" for number in numbers]
    if _LETTERS.fullmatch(inside):
        letters = string.ascii_letters
        first, last = letters.index(inside[0]), letters.index(inside[-1])
        return letters[first : last + 1] if first <= last else letters[last : first + 1][::-1]
    return inside.split(",") if "," in inside else None
