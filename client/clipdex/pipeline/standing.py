"""What a file is to an index: new, changed, unchanged, failed before. The one rule for a run and for its plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Literal, TypeAlias, get_args

from clipdex.base.errors import InvalidArgument
from clipdex.base.records import Failure, KnownFile
from clipdex.model.formats.decoders import extra_is_there
from clipdex.sources.scan import FoundFile, may_be_away

__all__ = ["Check", "Standing", "checked", "is_due", "keeps_its_row", "standing_of", "to_read"]


def is_due(known: KnownFile, retry_failures: bool) -> bool:
    """Whether a file that failed, and has not changed since, is to be tried again.

    retry_failures: all are. What lacked an optional package is in any case, once the package is there.
    """
    return known.row is None and (retry_failures or (known.reason == "missing_extra" and extra_is_there()))


# stat: a file with the size, mtime and ctime it had is not read. content: every file is read.
Check: TypeAlias = Literal["stat", "content"]


class Standing(Enum):
    """What a file is to an index. Of the last two nothing is read."""

    NEW = "the index does not know it"
    CHANGED = "it has another size or time, or failed and has changed in any way"
    REREAD = "its size and time are the same, but its ctime is not, or content is to be compared"
    RETRIED = "it failed before, and is to be tried again"
    FAILED = "it failed before, and has not changed"
    UNCHANGED = "nothing of it has changed"


def checked(check: str) -> None:
    """Raise InvalidArgument unless it is a Check."""
    if check not in get_args(Check):
        raise InvalidArgument(f"check is {check!r}; expected 'stat' or 'content'")


def standing_of(file: FoundFile, known: KnownFile | None, *, check: Check, retry_failures: bool) -> Standing:
    """known: what the index has of the file, if anything sound. A ctime that is not known is not compared."""
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
    """What to give to a worker: it need not decode what is as it was, unless the row has no signature yet."""
    hashed = known is not None and known.row is not None and known.signed
    return replace(file, content_hash=known.content_hash) if known is not None and hashed else file


def keeps_its_row(failure: Failure, known: Callable[[bytes], KnownFile | None]) -> bool:
    """Whether a file that could not be looked at has a row, and may only be away: its row stays."""
    found = known(failure.path) if may_be_away(failure) else None
    return found is not None and found.row is not None
