"""Scan for pictures: every file with a picture's suffix below a folder, in a reproducible order."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Protocol

from clipdex.base.errors import SourceError
from clipdex.base.object_paths import is_object
from clipdex.base.read_request import whole_file
from clipdex.base.records import Failure, KnownFile, maker, storable
from clipdex.base.regular_files import BROKEN_LINK, NOT_A_FILE, is_broken_link
from clipdex.sources.census import Census, PassedOver
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.locations import containers

__all__ = [
    "SUFFIXES",
    "FoundFile",
    "Member",
    "Tree",
    "folder_at",
    "may_be_away",
    "nothing_at",
    "regular_file",
    "scan",
    "stat_failure",
]

# So many paths in one folder are looked up in its list, of which this many times as many entries are read.
_WORTH_LISTING = 16
_LISTED = 8

# Other files in a folder of pictures (notes, videos, thumbnails.db) are not failures.
SUFFIXES = tuple(
    b"." + suffix for suffix in b"jpg jpeg jpe jfif png webp gif bmp tif tiff avif heic heif hif".split()
)


class Member(Protocol):
    """A picture inside another file."""

    def request(self) -> bytes:
        """Return the message to the worker: a ReadRequest, or a refusal if it cannot be read.

        Raises:
            SourceError: the store of a bucket cannot be read any more.
        """
        ...

    def metadata(self) -> str:
        """Return its metadata: JSON of an object. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A picture to index: its identity, size in bytes, and modification time.

    Its identity, `path`, is an absolute path, or an object's URL, as bytes.

    A size or time that does not fit 64 bits becomes the nearest that does.

    metadata: the source's metadata on it, as JSON of an object, if that costs nothing to get.
    member: where its bytes are, if not in a file at `path`.
    ctime_ns: ctime of the file, or of the file that contains it; an object's is made of its ETag; None: unknown.
    known: what the index has of its path, if that was looked up.
    content_hash: hash of its previous content, if it is to be decoded only if that has changed.
    """

    path: bytes
    size: int
    mtime_ns: int
    metadata: str | None = None
    member: Member | None = None
    ctime_ns: int | None = None
    known: KnownFile | None = None
    content_hash: bytes | None = None

    def __post_init__(self) -> None:
        for name in ("size", "mtime_ns", "ctime_ns"):
            number = getattr(self, name)
            if number is not None and number != storable(number):
                object.__setattr__(self, name, storable(number))

    @classmethod
    def of(cls, path: bytes, info: os.stat_result, metadata: str | None = None) -> FoundFile:
        """Make one from an ordinary file's stat result."""
        size, mtime, ctime = storable(info.st_size), storable(info.st_mtime_ns), storable(info.st_ctime_ns)
        return _make_file(path, size, mtime, metadata, None, ctime)

    def request(self) -> bytes:
        """Return the message to the worker that decodes it."""
        return whole_file(self.path) if self.member is None else self.member.request()

    def said(self) -> str | None:
        """Return the source's metadata on it: JSON of an object; None if there is none."""
        return self.metadata if self.member is None else self.member.metadata()


_make_file = maker(FoundFile)


class Tree:
    """The files below a directory, as `scan` finds them, and the indexed paths that are gone or outdated."""

    def __init__(
        self,
        directory: Path,
        suffixes: tuple[bytes, ...] = SUFFIXES,
        *,
        part: bool = False,
        exclusion: Exclusion | None = None,
    ) -> None:
        """part: it is part of a source, so that an unreadable directory is a failure, and not an error."""
        self._directory = directory
        self._suffixes = suffixes
        self._part = part
        self._exclusion = exclusion or Exclusion()
        self.passed_over = PassedOver()  # by the last complete pass
        self._failed: frozenset[bytes] | None = None  # in the last complete pass
        self._root: tuple[int, int] | None = None  # which folder the last pass scanned

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the files that `scan` finds."""
        failed: set[bytes] = set()

        def note(failure: Failure) -> None:
            failed.add(failure.path)
            on_failure(failure)

        census = Census()
        if self._part:
            root = os.path.abspath(os.fsencode(self._directory))
            yield from _walk(root, note, self._suffixes, self._exclusion, census)
        else:
            self._root = folder_at(self._directory)
            yield from scan(self._directory, note, self._suffixes, self._exclusion, census)
        self._failed = frozenset(failed)
        self.passed_over = census.result()

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the indexed paths below the directory that do not exist any more.

        A picture inside another file is gone when that file is; a folder does not check the file's other members.
        The path of a folder that could be read is neither a picture nor a failure. None, if there is no longer the
        folder that the last pass scanned: its disk may have been unmounted.
        """
        return list(self._gone(self._ours(paths))) if self.is_in_place() else []

    def is_in_place(self) -> bool:
        """Return whether there is still the folder that the last pass scanned, if there was one."""
        return self._root is None or folder_at(self._directory) == self._root

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the indexed paths below the directory that exist, but are left out of it.

        Pictures inside other files are not among them: they belong to the source of those. None for a part.
        """
        if self._part:
            return []
        start = len(os.path.join(os.path.abspath(os.fsencode(self._directory)), b""))
        return [
            path
            for path in self._ours(paths)
            if self._exclusion.may_leave_out(path[start:])  # else there is no need to look at the file
            and self._exclusion.leaves_out_any(path[start:], is_folder=os.path.isdir(path))
            and os.path.lexists(path)
        ]

    def sound_folders(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the paths below the directory that are folders which the last pass could read."""
        return [path for path in self._ours(paths) if self._is_sound_folder(path)]

    def _ours(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        root = os.path.abspath(os.fsencode(self._directory))
        below = os.path.join(root, b"")
        start = len(below)
        return (
            path
            for path in paths
            if path == root or (path.startswith(below) and self._exclusion.reaches(path[start:], is_folder=False))
        )

    def _gone(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        """Yield those that are gone. Of many in one folder, what a listing shows to be there is not looked at."""
        for folder, some in groupby(paths, key=lambda path: path.rpartition(b"/")[0]):
            asked = list(some)
            there = _plain_files(folder, _LISTED * len(asked)) if len(asked) >= _WORTH_LISTING else set()
            yield from (path for path in asked if path not in there and self._is_gone(path))

    def _is_gone(self, path: bytes) -> bool:
        try:
            mode = os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return all(nothing_at(container) for container, _ in containers(path))
        except (OSError, ValueError):
            return False
        return (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)) and self._is_sound_folder(path)

    def _is_sound_folder(self, path: bytes) -> bool:
        return self._failed is not None and path not in self._failed and os.path.isdir(path)


def _plain_files(folder: bytes, most: int) -> set[bytes]:
    """Return the paths of a folder's first entries, without folders and links; none if it cannot be listed."""
    try:
        with os.scandir(folder or b"/") as entries:
            return {e.path for e in islice(entries, most) if e.is_file(follow_symlinks=False)}
    except (OSError, ValueError):
        return set()


def folder_at(directory: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another that takes its place, as when a disk is unmounted; None if gone."""
    try:
        info = os.stat(directory)
    except (OSError, ValueError):
        return None
    return info.st_dev, info.st_ino


def scan(
    directory: Path,
    on_failure: Callable[[Failure], None],
    suffixes: tuple[bytes, ...] = SUFFIXES,
    exclusion: Exclusion | None = None,
    census: Census | None = None,
) -> Iterator[FoundFile]:
    """Yield every file with one of the suffixes below `directory`, depth first, sorted by the bytes of its name.

    What `exclusion` leaves out (hidden files and junk if not given) is skipped, and so are files with another
    suffix. `census` counts both.

    Links to files are followed. Links to folders come last, in their order, and neither their folder nor one below
    it is entered twice: so a folder below `directory` has its own path, and any other that by the first link that
    leads to it. What cannot be examined (a folder without permission, a dangling link, a FIFO) goes to
    `on_failure`.

    Raises:
        SourceError: `directory` does not exist, is not a directory, or cannot be read.
    """
    # Bytes, since a name need not be UTF-8. Absolute, so that a row means the same file whatever folder the next
    # command is run from.
    root = os.path.abspath(os.fsencode(directory))
    try:
        if not stat.S_ISDIR(os.stat(root).st_mode):
            raise SourceError(f"{directory}: is not a directory; give the folder that contains the pictures")
        os.listdir(root)
    except FileNotFoundError as exc:
        raise SourceError(f"{directory}: no such directory") from exc
    except OSError as exc:
        raise SourceError(f"{directory}: cannot be read: {exc.strerror}") from exc
    yield from _walk(root, on_failure, suffixes, exclusion or Exclusion(), census or Census())


def nothing_at(path: bytes) -> bool:
    """Return whether nothing exists at a path. A folder that may not be read says nothing about its files.

    Of an object in a bucket, the file system says nothing.
    """
    if is_object(path):
        return False
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def may_be_away(failure: Failure) -> bool:
    """Return whether a file that was not found may still exist: its disk fails, or is not mounted.

    It is gone if its folder, or that of what a link leads to, exists and has no such name.
    """
    if failure.reason not in ("vanished", "broken_link"):
        return failure.reason == "unreadable"
    if is_object(failure.path):  # the store has answered
        return False
    return nothing_at(os.path.dirname(os.path.realpath(failure.path)))


def regular_file(path: bytes, on_failure: Callable[[Failure], None]) -> os.stat_result | None:
    """Return the stat result of a regular file; None, and a failure for the ledger, if there is none."""
    try:
        info = os.stat(path)
    except (OSError, ValueError) as exc:
        on_failure(stat_failure(path, exc))
        return None
    if stat.S_ISREG(info.st_mode):
        return info
    on_failure(Failure(path, "not_a_file", NOT_A_FILE, 0, 0))
    return None


def _walk(
    root: bytes,
    on_failure: Callable[[Failure], None],
    suffixes: tuple[bytes, ...],
    exclusion: Exclusion,
    census: Census,
) -> Iterator[FoundFile]:
    start = len(os.path.join(root, b""))
    entered: set[tuple[int, int]] = set()
    links = deque([root])  # to folders, not followed yet
    while links:
        link = links.popleft()
        try:
            info = os.stat(link)
        except OSError as exc:
            on_failure(stat_failure(link, exc))
            continue
        # Not checked on the first pass, below the root itself: some file systems number folders badly, and without
        # links nothing is met twice.
        below_link = bool(entered)
        if (info.st_dev, info.st_ino) in entered:
            continue
        entered.add((info.st_dev, info.st_ino))
        # No recursion: a thousand nested folders must not end the scan.
        open_folders = [(link, iter(_entries(link, on_failure)))]
        while open_folders:
            folder, entries = open_folders[-1]
            before = os.path.join(folder, b"")
            for name, is_link, is_folder in entries:
                path = before + name
                wanted = name.lower().endswith(suffixes)
                below, like_folder = path[start:], is_folder or (is_link and os.path.isdir(path))
                if not exclusion.reaches(below, is_folder=like_folder):
                    continue
                if exclusion.leaves_out(below, is_folder=like_folder):
                    if wanted or like_folder:
                        census.leave_out(name, is_folder=like_folder)
                    continue
                try:
                    info = os.stat(path)
                except OSError as exc:
                    if wanted or is_folder:
                        on_failure(stat_failure(path, exc))
                    continue
                mode = info.st_mode
                if stat.S_ISREG(mode):
                    if wanted:
                        yield FoundFile.of(path, info)
                    else:
                        census.pass_by(name)
                elif stat.S_ISDIR(mode) and is_link:
                    links.append(path)
                elif stat.S_ISDIR(mode):
                    if below_link and (info.st_dev, info.st_ino) in entered:
                        continue
                    entered.add((info.st_dev, info.st_ino))
                    open_folders.append((path, iter(_entries(path, on_failure))))
                    break  # the rest of this folder follows
                elif wanted:
                    # A FIFO named x.jpg would block its reader for ever.
                    on_failure(Failure(path, "not_a_file", "is a FIFO, socket or device, not a file", 0, 0))
            else:
                open_folders.pop()


def _entries(folder: bytes, on_failure: Callable[[Failure], None]) -> list[tuple[bytes, bool, bool]]:
    """List a folder, sorted by name -> (name, is a link, is a folder itself)."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e.name, e.is_symlink(), e.is_dir(follow_symlinks=False)) for e in entries)
    except OSError as exc:
        on_failure(stat_failure(folder, exc))
        return []


def stat_failure(path: bytes, error: OSError | ValueError) -> Failure:
    """Make the ledger's line for a path that cannot be examined."""
    if is_broken_link(path, error):
        return Failure(path, "broken_link", BROKEN_LINK, 0, 0)
    reason = "vanished" if isinstance(error, FileNotFoundError) else "unreadable"
    detail = error.strerror if isinstance(error, OSError) else str(error)
    return Failure(path, reason, detail or type(error).__name__, 0, 0)
