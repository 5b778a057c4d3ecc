"""Counts of the files and folders that a source skips."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

__all__ = ["Census", "Costly", "Counted", "PassedOver", "Surveyed", "is_costly"]

# The most names and suffixes to count separately; and the longest suffix, beyond which it is a name with a dot.
_MOST = 1000
_LONGEST_SUFFIX = 12


@dataclass(frozen=True)
class PassedOver:
    """The files and folders that were skipped.

    left_out_files, left_out_folders: those left out by the source's `Exclusion`: files with a picture's suffix,
        and folders, which were not entered. left_out: their number by name, folders with a slash.
    others: the number of files by other suffix; "" for those without one, and for all beyond a thousand.
    """

    left_out_files: int = 0
    left_out_folders: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def sum(cls, parts: Iterable[PassedOver]) -> PassedOver:
        """Add up the counts of several folders."""
        files = folders = 0
        left_out: Counter[str] = Counter()
        others: Counter[str] = Counter()
        for part in parts:
            files, folders = files + part.left_out_files, folders + part.left_out_folders
            left_out.update(part.left_out)
            others.update(part.others)
        return cls(files, folders, left_out, others)


@runtime_checkable
class Surveyed(Protocol):
    """A source that scans folders."""

    def passed_over(self) -> PassedOver:
        """Return what its last pass skipped."""
        ...

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the indexed paths that exist in its folders, but are left out."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A source that may know how many files and failures a pass will give, before it."""

    def size(self) -> int | None:
        """Return their number; None if only a pass can tell."""
        ...


@runtime_checkable
class Costly(Protocol):
    """A source that may read much over a network in each pass."""

    def is_costly(self) -> bool:
        """Return whether it does, so that none is to be made only to count."""
        ...


def is_costly(source: object) -> bool:
    """Return whether a source is one whose passes cost much."""
    return isinstance(source, Costly) and source.is_costly()


class Census:
    """The running counts of one pass."""

    def __init__(self) -> None:
        self._files = self._folders = 0
        self._left_out: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._spelled: dict[bytes, str] = {}  # lower-case suffix -> its first spelling

    def leave_out(self, name: bytes, *, is_folder: bool) -> None:
        """Count a folder, or a file with a picture's suffix, that was left out."""
        self._files += not is_folder
        self._folders += is_folder
        _count(self._left_out, os.fsdecode(name) + ("/" if is_folder else ""))

    def pass_by(self, name: bytes) -> None:
        """Count a file with another suffix."""
        suffix = os.path.splitext(name)[1]
        suffix = suffix if 1 < len(suffix) <= _LONGEST_SUFFIX else b""
        if suffix.lower() not in self._spelled and len(self._spelled) >= _MOST:
            suffix = b""
        _count(self._others, self._spelled.setdefault(suffix.lower(), os.fsdecode(suffix)))

    def result(self) -> PassedOver:
        """Return the counts."""
        return PassedOver(self._files, self._folders, self._left_out, self._others)


def _count(counts: dict[str, int], key: str) -> None:
    key = key if key in counts or len(counts) < _MOST else ""
    counts[key] = counts.get(key, 0) + 1
