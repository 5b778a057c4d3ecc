"""Names for paths that stand beside each other: the file's, with folders only where names repeat."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from clipdex.base.item_paths import id_of_text

__all__ = ["short_names"]


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return, for each path, as few of its last parts as tell it from the other paths.

    Names that look the same, with accents as one character or two, count as the same. Example:
    `/a/x.jpg`, `/a/1/y.jpg`, `/a/2/y.jpg` -> `x.jpg`, `1/y.jpg`, `2/y.jpg`. An item's is its whole `id:ID`.
    """
    alike: list[list[str]] = [list(dict.fromkeys(paths))]
    names: dict[str, str] = {}
    parts = 1
    while alike:
        found: dict[str, list[str]] = defaultdict(list)
        for group in alike:
            for path in group:
                names[path] = _last(path, parts)
                found[unicodedata.normalize("NFC", names[path])].append(path)
        # A path that is whole already has no more parts to tell it by.
        alike = [
            longer
            for group in found.values()
            if len(group) > 1 and (longer := [path for path in group if names[path] != path])
        ]
        parts += 1
    return names


def _last(path: str, count: int) -> str:
    """Return the last `count` parts of a path, or all of it if it has no more."""
    if id_of_text(path) is not None:
        return path
    at = len(path)
    for _ in range(count):
        at = path.rfind("/", 0, at)
        if at < 0:
            return path
    return path[at + 1 :] or path
