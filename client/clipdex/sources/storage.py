"""Files that contain pictures, on this machine or in a bucket: their state, their bytes, whether they are gone.

A path is that of a file, or the URL of an object, as bytes. Readers of tars and tables use this module alone, and
do not know where a file is.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from clipdex.base.git_lfs import is_pointer_file
from clipdex.base.object_paths import is_object, object_meant
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.object_file import ObjectFile
from clipdex.sources.object_store import FETCHES, Bucket, Listed, parts_of
from clipdex.sources.object_tree import ObjectTree
from clipdex.sources.remote import open_remote
from clipdex.sources.scan import Tree, nothing_at

__all__ = [
    "FileState",
    "FileTree",
    "identity_of",
    "is_away",
    "is_gone_from",
    "is_pointer_at",
    "is_there",
    "listed_at",
    "open_file",
    "root_of",
    "state_in",
    "state_of",
    "tree_at",
]

FileTree: TypeAlias = Tree | ObjectTree


@dataclass(frozen=True)
class FileState:
    """What changes when a file is rewritten.

    ctime_ns: of an object, a number made of its ETag; None without one. version: the file's inode, or its ETag.
    """

    size: int
    mtime_ns: int
    ctime_ns: int | None
    version: int | str | None


def identity_of(place: str | os.PathLike[str]) -> bytes:
    """Return the path of a file that a user names: absolute, or the URL of an object."""
    url = object_meant(os.fspath(place))
    return os.path.abspath(os.fsencode(place)) if url is None else url.encode("utf-8", "surrogateescape")


def root_of(place: str | os.PathLike[str]) -> bytes:
    """Return what the paths of all files below a folder begin with."""
    path = identity_of(place)
    return path.rstrip(b"/") + b"/" if is_object(path) else os.path.join(path, b"")


def state_of(path: bytes) -> FileState:
    """Examine a file.

    Raises:
        OSError: FileNotFoundError if there is none.
        SourceError: the store of an object cannot be read.
    """
    if not is_object(path):
        return _state(os.stat(path))
    listed = _head(path)
    if listed is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such object")
    return FileState(listed.size, listed.mtime_ns, listed.mark, listed.etag)


def open_file(path: bytes, state: FileState | None = None) -> BinaryIO:
    """Open a file to read, unbuffered. The reads of an object raise OSError if it is not in the given state.

    Raises:
        OSError: it cannot be opened.
        SourceError: the store of an object cannot be read.
    """
    if not is_object(path):
        return cast(BinaryIO, open(path, "rb", buffering=0))
    return cast(BinaryIO, ObjectFile(*listed_at(path, state or state_of(path))))


def listed_at(path: bytes, state: FileState) -> tuple[Bucket, Listed]:
    """Return the bucket and the entry of an object in this state."""
    url = os.fsdecode(path)
    etag = state.version if isinstance(state.version, str) else None
    return open_remote(url), Listed(parts_of(url)[2], state.size, state.mtime_ns, etag, state.ctime_ns)


def is_there(path: bytes) -> bool:
    """Return whether a path is a regular file, or an object that can be examined."""
    return _head(path) is not None if is_object(path) else os.path.isfile(path)


def is_gone_from(path: bytes) -> bool:
    """Return whether a file certainly does not exist. Raises SourceError if the store cannot be asked."""
    return _head(path) is None if is_object(path) else nothing_at(path)


def is_away(path: bytes) -> bool:
    """Return whether a file's folder is gone, too, as if its disk were not mounted. A bucket has no folders."""
    return nothing_at(os.path.dirname(path))


def is_pointer_at(path: bytes) -> bool:
    """Return whether a file of this machine is a git-lfs pointer."""
    return not is_object(path) and is_pointer_file(os.fsdecode(path))


def tree_at(
    place: str | os.PathLike[str],
    suffixes: tuple[bytes, ...],
    *,
    exclusion: Exclusion | None = None,
    fetches: int = FETCHES,
) -> FileTree:
    """Return the files with these suffixes below a folder of this machine, or below a prefix of a bucket."""
    url = object_meant(os.fspath(place))
    if url is None:
        return Tree(Path(place), suffixes, exclusion=exclusion)
    return ObjectTree(open_remote(url), parts_of(url)[2], suffixes, exclusion=exclusion, fetches=fetches)


def state_in(file: BinaryIO, given: FileState) -> FileState:
    """Return the state of an opened file: an object's is the one it was opened in."""
    return given if isinstance(file, ObjectFile) else _state(os.fstat(file.fileno()))


def _head(path: bytes) -> Listed | None:
    url = os.fsdecode(path)
    return open_remote(url).head(parts_of(url)[2])


def _state(info: os.stat_result) -> FileState:
    return FileState(info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
