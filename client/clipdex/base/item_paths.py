"""Ids of pictures that belong to no file, and the path that an index keeps for each.

The path of an item is `id:`, its id in UTF-8 and a zero byte. No file system has a name with a zero byte, and
every system call refuses one: no source ever yields such a path, and nothing takes an item for a file that is
gone. People see, and give, the text `id:ID`: a path begins with a slash, or with the scheme of a bucket's URL, so
it cannot be mistaken for one.
"""

from __future__ import annotations

import os

from clipdex.base.errors import InvalidArgument
from clipdex.base.object_paths import object_meant

__all__ = ["BEGINS", "check_id", "id_of_path", "id_of_text", "is_item", "item_path", "path_text", "paths_meant"]

BEGINS = "id:"
_BEGINS, _END = BEGINS.encode(), b"\0"
LONGEST_ID = 1024  # bytes of UTF-8


def check_id(given: object) -> str:
    """Return the id if it may be one.

    Raises:
        InvalidArgument: it is not text, empty, too long, or has a zero byte or half of a surrogate pair.
    """
    if not isinstance(given, str):
        raise InvalidArgument(f"the id is {given!r:.60}; expected a text of your own")
    try:
        size = len(given.encode())
    except UnicodeEncodeError as exc:
        raise InvalidArgument(f"the id {given!r:.60} is not valid Unicode; expected a text of your own") from exc
    if not 0 < size <= LONGEST_ID or "\0" in given:
        what = "is empty" if not size else "has a zero byte" if "\0" in given else f"has {size:,} bytes"
        raise InvalidArgument(
            f"the id {given!r:.60} {what}; expected 1 to {LONGEST_ID:,} bytes of UTF-8, none zero"
        )
    return given


def item_path(item_id: str) -> bytes:
    """The path of the item of this id in an index. Raises InvalidArgument if it cannot be an id."""
    return _BEGINS + check_id(item_id).encode() + _END


def is_item(path: bytes) -> bool:
    """Return whether a path of an index is that of an item."""
    return path.startswith(_BEGINS) and path.endswith(_END)


def id_of_path(path: bytes) -> str | None:
    """Return the id of an item's path; None for the path of a file."""
    return path[len(_BEGINS) : -1].decode("utf-8", "replace") if is_item(path) else None


def path_text(path: bytes) -> str:
    """A path of an index as people see it: `id:ID` for an item."""
    return os.fsdecode(path[:-1] if is_item(path) else path)


def id_of_text(path: str) -> str | None:
    """Return the id in a text of `path_text`; None if it is the path of a file."""
    return path[len(BEGINS) :] if path.startswith(BEGINS) else None


def paths_meant(given: str | bytes | os.PathLike[str]) -> list[bytes]:
    """The paths of an index that a given path may mean, the likelier first.

    `id:ID` is the item of that id or else a file of that name; `./id:ID` only the file. `s3://…` is the object, or
    what is below it.
    """
    file = os.path.abspath(os.fsencode(given))
    text = os.fsdecode(given)
    if text.startswith(BEGINS):
        try:
            return [item_path(text[len(BEGINS) :]), file]
        except InvalidArgument:
            pass
    if (url := object_meant(text)) is not None:
        return [os.fsencode(url.rstrip("/")), file]
    return [file]
