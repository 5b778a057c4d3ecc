"""What a folder holds beside the pictures that are taken from it, counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

__all__ = ["Census", "PassedOver", "Surveyed"]

# Names and suffixes that are counted one by one; and how long a suffix may be, before it is a name with a dot.
_MOST = 1000
_LONGEST_SUFFIX = 12


@dataclass(frozen=True)
class PassedOver:
    """What was found and not taken.

    left_out_files, left_out_folders: because of the source's `Exclusion`: files with a picture's suffix, and
        folders, which were not looked into. left_out: how many of which name, folders with a slash.
    others: how many files of which other suffix; "" where there is none, and for all beyond a thousand.
    """

    left_out_files: int = 0
    left_out_folders: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def sum(cls, parts: Iterable[PassedOver]) -> PassedOver:
        """Of several folders."""
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
    """A source that goes through folders."""

    def passed_over(self) -> PassedOver:
        """What its last pass found and did not take."""
        ...

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Those of the indexed paths that lie in its folders and are there, but are left out of it."""
        ...


class Census:
    """The counts of one pass, as it goes on."""

    def __init__(self) -> None:
        self._files = self._folders = 0
        self._left_out: dict[str, int] = {}
        self._others: dict[str, int] = {}
        self._spelled: dict[bytes, str] = {}  # suffixes as they were first met, by their lower case

    def leave_out(self, name: bytes, *, is_folder: bool) -> None:
        """A folder, or a file with a picture's suffix, was left out."""
        self._files += not is_folder
        self._folders += is_folder
        _count(self._left_out, os.fsdecode(name) + ("/" if is_folder else ""))

    def pass_by(self, name: bytes) -> None:
        """A file of another suffix was met."""
        suffix = os.path.splitext(name)[1]
        suffix = suffix if 1 < len(suffix) <= _LONGEST_SUFFIX else b""
        if suffix.lower() not in self._spelled and len(self._spelled) >= _MOST:
            suffix = b""
        _count(self._others, self._spelled.setdefault(suffix.lower(), os.fsdecode(suffix)))

    def result(self) -> PassedOver:
        """What it came to."""
        return PassedOver(self._files, self._folders, self._left_out, self._others)


def _count(counts: dict[str, int], key: str) -> None:
    key = key if key in counts or len(counts) < _MOST else ""
    counts[key] = counts.get(key, 0) + 1
