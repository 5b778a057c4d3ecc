"""The pictures of a folder that a change may concern: one new picture costs no scan of a million others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from clipdex.sources.exclusion import Exclusion
from clipdex.sources.source import Folder

__all__ = ["Touched"]


class Touched(Folder):
    """A source of the pictures at, beside and below some changed paths. Nothing else belongs to it.

    A file concerns every file in its folder whose name begins alike, up to the first dot: the picture that a
    sidecar belongs to. Links to folders must not be at or below the paths: only a whole scan knows which of
    several paths a folder has.

    whole: the folder with all its pictures, which must not be gone or empty.
    """

    def __init__(
        self, directory: Path, files: Iterable[bytes], folders: Iterable[bytes], exclusion: Exclusion | None = None
    ) -> None:
        """files, folders: paths from the directory, which need not exist any more."""
        exclusion = exclusion or Exclusion()
        self.whole = Folder(directory, exclusion=exclusion)
        super().__init__(directory, exclusion=exclusion.within(_Reach(files, folders)))


class _Reach:
    def __init__(self, files: Iterable[bytes], folders: Iterable[bytes]) -> None:
        self._files = {_folder_and_key(path) for path in files}
        self._folders = set(folders)
        holding = {folder for folder, _ in self._files}
        self._on_the_way = {above for path in holding | self._folders for above in _at_and_above(path)}
        # Asked of every path in an index: most are in folders that nothing has happened to.
        self._of_folder: dict[
            bytes, bool | None
        ] = {}  # True: all of it is reached; None: some of its files may be
        self._holding = holding

    def reaches(self, below: bytes, *, is_folder: bool) -> bool:
        """Return whether it is one of the paths, beside or below one, or on the way to one."""
        if is_folder:
            return below in self._on_the_way or below in self._folders or self._of(below) is True
        folder = below.rpartition(b"/")[0]
        found = self._of(folder)
        return found is True or below in self._folders or (found is None and _folder_and_key(below) in self._files)

    def _of(self, folder: bytes) -> bool | None:
        try:
            return self._of_folder[folder]
        except KeyError:
            inside = any(above in self._folders for above in _at_and_above(folder))
            found = inside or (None if folder in self._holding else False)
            self._of_folder[folder] = found
            return found


def _folder_and_key(path: bytes) -> tuple[bytes, bytes]:
    folder, name = os.path.split(path)
    dots = len(name) - len(name.lstrip(b"."))
    return folder, name[: name.find(b".", dots)] if b"." in name[dots:] else name


def _at_and_above(path: bytes) -> Iterator[bytes]:
    """Yield a path and the folders around it, up to the source's own, which is empty."""
    while path:
        yield path
        path = os.path.dirname(path)
    yield b""
