"""Exclusion of files from a folder: hidden ones, junk of systems and programs, and globs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from fnmatch import translate
from typing import Protocol

from clipdex.base.errors import InvalidArgument
from clipdex.base.spelling import composed
from clipdex.sources.globs import compile_glob

__all__ = ["JUNK_FILES", "JUNK_FOLDERS", "Exclusion", "Reach"]

# Compared without case: file systems of cameras and sticks do not tell `$Recycle.Bin` from `$RECYCLE.BIN`.
JUNK_FILES = ("._*",)
JUNK_FOLDERS = (
    *(
        "._*",
        ".AppleDouble",
        ".DocumentRevisions-V100",
        ".Spotlight-V100",
        ".TemporaryItems",
        ".Trash",
        ".Trash-*",
    ),
    *(
        ".Trashes",
        ".fseventsd",
        ".git",
        ".thumbnails",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "@Recently-Snapshot",
    ),
    *(
        "@Recycle",
        "@eaDir",
        "@tmp",
        "RECYCLER",
        "System Volume Information",
        "__MACOSX",
        "lost+found",
        "node_modules",
    ),
)


class _Junk:
    """Names that match one of some globs, none of which begins with a wildcard."""

    def __init__(self, globs: Sequence[str]) -> None:
        self._pattern = re.compile(b"|".join(translate(glob.lower()).encode() for glob in globs))
        self.begins = frozenset(case(glob[:1]).encode() for glob in globs for case in (str.lower, str.upper))

    def has(self, name: bytes) -> bool:
        return name[:1] in self.begins and self._pattern.match(name.lower()) is not None


_FILES, _FOLDERS, _EITHER = _Junk(JUNK_FILES), _Junk(JUNK_FOLDERS), _Junk(JUNK_FILES + JUNK_FOLDERS)


class Reach(Protocol):
    """The part of a folder that a source covers."""

    def reaches(self, below: bytes, *, is_folder: bool) -> bool:
        """Return whether it covers a file, or files in a folder, given the path from the source's folder."""
        ...


class Exclusion:
    """The rules for files and folders to leave out below a source's folder; never the folder itself."""

    def __init__(self, globs: Sequence[str] = (), *, hidden: bool = False) -> None:
        """By default, hidden names and the two lists above.

        Args:
            globs: more to leave out. Without a slash: the name of a file or folder at any depth; with one before
                the end: a path from the source's folder; with one at the end: only folders.
            hidden: include names that begin with a dot, except those in the lists.

        Raises:
            InvalidArgument: a glob is invalid.
        """
        self._hidden = hidden
        self._rules = [_Rule(glob) for glob in globs]
        self._scope: Reach | None = None
        self._last_folder = (b"", False)  # and whether it, or one around it, is left out

    def within(self, scope: Reach) -> Exclusion:
        """Return the same rules for a source that covers only a part of its folder."""
        other = copy(self)
        other._scope = scope
        return other

    def reaches(self, below: bytes, *, is_folder: bool) -> bool:
        """Return whether a file or folder belongs to the source at all."""
        return self._scope is None or self._scope.reaches(below, is_folder=is_folder)

    def leaves_out(self, below: bytes, *, is_folder: bool) -> bool:
        """Return whether a file or folder, given its path from the source's folder, is left out itself."""
        if self._is_hidden_or(_FOLDERS if is_folder else _FILES, below):
            return True
        if not self._rules:
            return False
        path = composed(below.decode("utf-8", "surrogateescape"))
        return any(rule.matches(path, is_folder) for rule in self._rules)

    def _is_hidden_or(self, junk: _Junk, below: bytes) -> bool:
        at = below.rfind(b"/") + 1
        first = below[at : at + 1]
        if first != b"." and first not in junk.begins:  # as nearly always
            return False
        name = below[at:]
        return (not self._hidden and name.startswith(b".")) or junk.has(name)

    def leaves_out_any(self, below: bytes, *, is_folder: bool) -> bool:
        """Return whether it, or a folder around it, is left out."""
        return self._leaves_out_around(below) or self.leaves_out(below, is_folder=is_folder)

    def may_leave_out(self, below: bytes) -> bool:
        """Return whether it, or a folder around it, is left out, if it is a file or if it is a folder."""
        if self._leaves_out_around(below):
            return True
        if not self._rules:
            return self._is_hidden_or(_EITHER, below)
        return self.leaves_out(below, is_folder=False) or self.leaves_out(below, is_folder=True)

    def _leaves_out_around(self, below: bytes) -> bool:
        """Return whether a folder around it is left out; paths that follow each other often share theirs."""
        folder = below.rpartition(b"/")[0]
        last, known = self._last_folder
        if folder != last:
            parts = below.split(b"/")
            around = (b"/".join(parts[:end]) for end in range(1, len(parts)))
            known = any(self.leaves_out(each, is_folder=True) for each in around)
            self._last_folder = folder, known
        return known


class _Rule:
    def __init__(self, glob: str) -> None:
        if glob.startswith("!") or not glob.strip("/"):
            raise InvalidArgument(
                f"{glob!r} cannot be excluded; expected a name or path such as  '*_thumb.jpg', 'cache/' or '/raw'"
            )
        self._folders_only = glob.endswith("/")
        bare = glob.rstrip("/")
        self._of_names = "/" not in bare
        self._pattern = compile_glob(bare.lstrip("/"))

    def matches(self, path: str, is_folder: bool) -> bool:
        if self._folders_only and not is_folder:
            return False
        return self._pattern.fullmatch(path.rpartition("/")[2] if self._of_names else path) is not None
