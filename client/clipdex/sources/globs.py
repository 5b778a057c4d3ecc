"""Globs over paths: `*`, `?` and `[…]` stand for what has no slash in it, `**` for any number of folders."""

from __future__ import annotations

import os
import re

from clipdex.base.errors import InvalidArgument
from clipdex.base.spelling import composed

__all__ = ["Scope", "compile_glob", "is_glob"]


def is_glob(text: str) -> bool:
    """Whether anything in it stands for something else."""
    return any(char in text for char in "*?[")


class Scope:
    """The files below a folder that a glob means."""

    def __init__(self, glob: str) -> None:
        """glob: relative to the current folder, or absolute; one at least of its parts stands for something else.

        Raises:
            InvalidArgument: it is no glob.
        """
        parts = os.path.abspath(glob).split("/")
        first = next(at for at, part in enumerate(parts) if is_glob(part))
        self.folder = "/".join(parts[:first]) or "/"
        self._parts = parts[first:]
        # Of each folder on the way, and of the file at its end.
        self._patterns = [compile_glob("/".join(self._parts[: at + 1])) for at in range(len(self._parts))]

    def reaches(self, below: bytes, *, is_folder: bool) -> bool:
        """Whether it means a file, or files in a folder, given its path from `folder`."""
        path = composed(below.decode("utf-8", "surrogateescape"))
        if not is_folder:
            return self._patterns[-1].fullmatch(path) is not None
        depth = path.count("/") + 1
        if "**" in self._parts[:depth]:
            return True
        return depth < len(self._parts) and self._patterns[depth - 1].fullmatch(path) is not None


def compile_glob(glob: str) -> re.Pattern[str]:
    """What matches whole paths, composed (`spelling`), that a glob means.

    Raises:
        InvalidArgument: a class of characters has no end.
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
        raise InvalidArgument(f"{glob!r} is no glob: {exc}; write [[] for a bracket") from exc


def _part(part: str, glob: str) -> str:
    """The pattern of what stands between two slashes."""
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
                raise InvalidArgument(f"{glob!r} is no glob: [ without ]; write [[] for a bracket")
            inside = part[at:end].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            text += "[^/" + inside[1:] + "]" if inside.startswith("!") else f"(?!/)[{inside}]"
            at = end + 1
        else:
            text += re.escape(char)
    return text
