"""Names with wildcards and braces: `*.jpg`, `{00000..00099}.tar`."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Sequence

from clipdex.base.errors import InvalidArgument
from clipdex.base.spelling import composed

__all__ = ["Scope", "compile_glob", "expanded", "is_glob"]


def is_glob(text: str) -> bool:
    """Return whether the text has a wildcard."""
    return any(char in text for char in "*?[")


class Scope:
    """The files below a folder that match a glob."""

    def __init__(self, glob: str) -> None:
        """glob: relative to the current folder, or absolute; at least one of its parts has a wildcard.

        Raises:
            InvalidArgument: it is not a valid glob.
        """
        parts = os.path.abspath(glob).split("/")
        first = next((at for at, part in enumerate(parts) if is_glob(part)), None)
        if first is None:
            raise InvalidArgument(f"{glob!r} is not a valid glob: a .. takes back its wildcard")
        self.folder = "/".join(parts[:first]) or "/"
        self._parts = parts[first:]
        # For each folder on the way, and for the file at the end.
        self._patterns = [compile_glob("/".join(self._parts[: at + 1])) for at in range(len(self._parts))]

    def reaches(self, below: bytes, *, is_folder: bool) -> bool:
        """Return whether it matches a file, or files in a folder, given the path from `folder`."""
        path = composed(below.decode("utf-8", "surrogateescape"))
        if not is_folder:
            return self._patterns[-1].fullmatch(path) is not None
        depth = path.count("/") + 1
        if "**" in self._parts[:depth]:
            return True
        return depth < len(self._parts) and self._patterns[depth - 1].fullmatch(path) is not None


def compile_glob(glob: str) -> re.Pattern[str]:
    """Compile a glob to a pattern for whole paths in composed form (see `spelling`).

    Raises:
        InvalidArgument: a character class is not closed.
    """
    parts = composed(glob).split("/")
    text = ""
    for at, part in enumerate(parts):
        last = at == len(parts) - 1
        if part == "**":
            text += ".+" if last else "(?:[^/]+/)*"
        else:
            text += _part(part, glob) + ("" if last else "/")
    try:
        return re.compile(text, re.DOTALL)
    except re.error as exc:
        raise InvalidArgument(f"{glob!r} is not a valid glob: {exc}; write [[] for a bracket") from exc


def _part(part: str, glob: str) -> str:
    """Translate the part between two slashes to a pattern."""
    text, at = "", 0
    while at < len(part):
        char = part[at]
        at += 1
        if char == "*":
            text += "[^/]*"
        elif char == "?":
            text += "[^/]"
        elif char == "[":
            end = part.find("]", at + (2 if part[at : at + 1] == "!" else 1))
            if end < 0:
                raise InvalidArgument(f"{glob!r} is not a valid glob: [ without ]; write [[] for a bracket")
            inside = part[at:end].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            text += "[^/" + inside[1:] + "]" if inside.startswith("!") else f"(?!/)[{inside}]"
            at = end + 1
        else:
            text += re.escape(char)
    return text


_MOST = 100_000
_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})(?:\.\.(\d{1,18}))?", re.ASCII)
_LETTERS = re.compile(r"[a-z]\.\.[a-z]|[A-Z]\.\.[A-Z]")


def expanded(text: str) -> list[str]:
    """Expand the braces in a name -> all names, in order; only the text if it has no braces that mean anything.

    Nested braces are not expanded.

    Raises:
        InvalidArgument: there are more than 100,000 names.
    """
    names = [""]
    end = 0
    for group in _GROUP.finditer(text):
        before, end = text[end : group.start()], group.end()
        choices = _choices(group[1])
        if choices is None:
            choices = [group[0]]
        if len(names) * len(choices) > _MOST:
            raise InvalidArgument(f"{text}: its braces expand to more than {_MOST:,} names; give them in parts")
        names = [name + before + choice for name in names for choice in choices]
    return [name + text[end:] for name in names]


def _choices(inside: str) -> Sequence[str] | None:
    """Return what a pair of braces expands to; None if they are part of the name."""
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
