"""What is left out of a folder: what is hidden, what systems and programs put beside pictures, and globs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from fnmatch import translate

from clipdex.base.errors import InvalidArgument
from clipdex.base.spelling import composed
from clipdex.sources.globs import Scope, compile_glob

__all__ = ["JUNK_FILES", "JUNK_FOLDERS", "Exclusion"]

# Whatever the case: file systems of cameras and sticks do not tell `$Recycle.Bin` from `$RECYCLE.BIN`.
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


def _any_of(globs: Sequence[str]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(translate(glob.lower()).encode() for glob in globs))


_FILES, _FOLDERS = _any_of(JUNK_FILES), _any_of(JUNK_FOLDERS)


class Exclusion:
    """Which files and folders below a source's folder are left out. The folder itself never is."""

    def __init__(self, globs: Sequence[str] = (), *, hidden: bool = False) -> None:
        """By default what is hidden, and what stands in the two lists above.

        Args:
            globs: more to leave out. Without a slash, the name of a file or folder at any depth; with one that is
                not its last character, a path from the source's folder; with one at the end, folders only.
            hidden: take names that begin with a dot, but for those in the lists.

        Raises:
            InvalidArgument: a glob is none.
        """
        self._hidden = hidden
        self._rules = [_Rule(glob) for glob in globs]
        self._scope: Scope | None = None

    def within(self, scope: Scope) -> Exclusion:
        """The same, for a source that is answerable for a part of its folder only."""
        other = copy(self)
        other._scope = scope
        return other

    def reaches(self, below: bytes, *, is_folder: bool) -> bool:
        """Whether a file or folder is any of the source's business."""
        return self._scope is None or self._scope.reaches(below, is_folder=is_folder)

    def leaves_out(self, below: bytes, *, is_folder: bool) -> bool:
        """Whether a file or folder is left out, given its path from the source's folder; not those around it."""
        name = below.rpartition(b"/")[2]
        if not self._hidden and name.startswith(b"."):
            return True
        if (_FOLDERS if is_folder else _FILES).match(name.lower()):
            return True
        if not self._rules:
            return False
        path = composed(below.decode("utf-8", "surrogateescape"))
        return any(rule.matches(path, is_folder) for rule in self._rules)

    def leaves_out_any(self, below: bytes, *, is_folder: bool) -> bool:
        """Whether it is left out, or a folder around it."""
        parts = below.split(b"/")
        around = (b"/".join(parts[:end]) for end in range(1, len(parts)))
        return any(self.leaves_out(folder, is_folder=True) for folder in around) or self.leaves_out(
            below, is_folder=is_folder
        )


class _Rule:
    def __init__(self, glob: str) -> None:
        if glob.startswith("!") or not glob.strip("/"):
            raise InvalidArgument(
                f"{glob!r} cannot be left out; expected a name or path such as  '*_thumb.jpg', 'cache/' or '/raw'"
            )
        self._folders_only = glob.endswith("/")
        bare = glob.rstrip("/")
        self._of_names = "/" not in bare
        self._pattern = compile_glob(bare.lstrip("/"))

    def matches(self, path: str, is_folder: bool) -> bool:
        if self._folders_only and not is_folder:
            return False
        return self._pattern.fullmatch(path.rpartition("/")[2] if self._of_names else path) is not None
