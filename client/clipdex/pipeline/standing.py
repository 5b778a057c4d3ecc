"""A file's standing with an index: new, changed, unchanged or failed before. One rule for a run and its plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Literal, TypeAlias, get_args

from clipdex.base.blocks import blocks
from clipdex.base.errors import InvalidArgument
from clipdex.base.records import Failure, KnownFile
from clipdex.model.formats.decoders import extra_is_there
from clipdex.sources.scan import FoundFile, may_be_away

__all__ = ["Check", "Standing", "checked", "is_due", "keeps_its_row", "looked_up", "standing_of", "to_read"]

# Files that are looked up in the index together, as long as the source lists them this quickly.
_LOOKED_UP = 256
_LOOK_UP_S = 0.02


def is_due(known: KnownFile, retry_failures: bool) -> bool:
    """Return whether a file that failed, and has not changed since, is to be retried.

    retry_failures: retry all of them. A file that lacked an optional package is retried once that is installed.
    """
    return known.row is None and (retry_failures or (known.reason == "missing_extra" and extra_is_there()))


# stat: a file with unchanged size, mtime and ctime is not read. content: every file is read.
Check: TypeAlias = Literal["stat", "content"]


class Standing(Enum):
    """A file's standing with an index. Files of the last two kinds are not read."""

    NEW = "the index does not know it"
    CHANGED = "its size or time has changed, or it failed before and has changed in any way"
    REREAD = "its size and time are the same, but its ctime has changed, or content is to be compared"
    RETRIED = "it failed before, and is to be retried"
    FAILED = "it failed before, and has not changed"
    UNCHANGED = "it has not changed"


def checked(check: str) -> None:
    """Raise InvalidArgument unless the text is a Check."""
    if check not in get_args(Check):
        raise InvalidArgument(f"check is {check!r}; expected 'stat' or 'content'")


def looked_up(
    files: Iterable[FoundFile], known_among: Callable[[Sequence[bytes]], Mapping[bytes, KnownFile]]
) -> Iterator[tuple[FoundFile, KnownFile | None]]:
    """Yield a source's files, and what the index knows of each. known_among: looks up many paths."""
    for some in blocks(files, _LOOKED_UP, _LOOK_UP_S):
        known = known_among([file.path for file in some])
        for file in some:
            yield file, known.get(file.path)


def standing_of(file: FoundFile, known: KnownFile | None, *, check: Check, retry_failures: bool) -> Standing:
    """Return a file's standing, given its valid record in the index, if any. An unknown ctime is not compared."""
    if known is None:
        return Standing.NEW
    if (known.size, known.mtime_ns) != (file.size, file.mtime_ns):
        return Standing.CHANGED
    same_ctime = known.ctime_ns is None or file.ctime_ns is None or known.ctime_ns == file.ctime_ns
    if known.row is None:
        if not same_ctime:
            return Standing.CHANGED
        return Standing.RETRIED if is_due(known, retry_failures or check == "content") else Standing.FAILED
    return Standing.UNCHANGED if same_ctime and check == "stat" else Standing.REREAD


def to_read(file: FoundFile, known: KnownFile | None) -> FoundFile:
    """Return the file for a worker, with its old hash so that it is not decoded if unchanged, unless unsigned."""
    if known is None:
        return file
    hashed = known.row is not None and known.signed
    return replace(file, known=known, content_hash=known.content_hash if hashed else None)


def keeps_its_row(failure: Failure, known: Callable[[bytes], KnownFile | None]) -> bool:
    """Return whether a file that could not be examined keeps its row, as it may only be unavailable."""
    found = known(failure.path) if may_be_away(failure) else None
    return found is not None and found.row is not None
