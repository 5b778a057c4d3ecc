"""Finding pictures: every file with a picture's suffix below a folder, in an order that repeats."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clipdex.errors import SourceError
from clipdex.index.rows import Failure
from clipdex.sources.members import containers
from clipdex.sources.request import Request

__all__ = [
    "SUFFIXES",
    "FoundFile",
    "Member",
    "nothing_at",
    "regular_file",
    "scan",
    "stat_failure",
    "vanished",
]

# Other files in a folder of pictures (notes, videos, thumbnails.db) are not the user's mistake.
SUFFIXES = tuple(
    b"." + suffix for suffix in b"jpg jpeg jpe jfif png webp gif bmp tif tiff avif heic heif hif".split()
)


class Member(Protocol):
    """A picture inside another file."""

    def request(self) -> bytes:
        """What to tell the worker: a Request, or a refusal where its bytes cannot be had. Never raises."""
        ...

    def metadata(self) -> str:
        """What came with it: JSON of an object. Never raises."""
        ...


@dataclass(frozen=True)
class FoundFile:
    """A picture to index: its identity (an absolute path as bytes), size in bytes, and time of change.

    metadata: what the source says of it, as JSON of an object, where that costs nothing to know.
    member: where its bytes are, if not in a file at `path`.
    """

    path: bytes
    size: int
    mtime_ns: int
    metadata: str | None = None
    member: Member | None = None

    def request(self) -> bytes:
        """What to tell the worker that decodes it."""
        return Request(self.path).encode() if self.member is None else self.member.request()

    def said(self) -> str | None:
        """What the source says of it: JSON of an object; None if it says nothing."""
        return self.metadata if self.member is None else self.member.metadata()


def scan(
    directory: Path, on_failure: Callable[[Failure], None], suffixes: tuple[bytes, ...] = SUFFIXES
) -> Iterator[FoundFile]:
    """Every file with such a suffix below `directory`, depth first, by the bytes of its name.

    Links are followed; a folder that was already entered on the way down is not entered again. What
    cannot be looked at (a folder without permission, a link to nothing, a FIFO) goes to `on_failure`.

    Raises:
        SourceError: `directory` is not there, is no directory, or cannot be read.
    """
    # Bytes: a name that is not UTF-8 is a name like any other. Absolute, so that a row means the same
    # file whatever folder the next command is run from.
    root = os.path.abspath(os.fsencode(directory))
    try:
        info = os.stat(root)
        if not stat.S_ISDIR(info.st_mode):
            raise SourceError(f"{directory}: is not a directory; give the folder that holds the pictures")
        os.listdir(root)
    except FileNotFoundError as exc:
        raise SourceError(f"{directory}: there is no such directory") from exc
    except OSError as exc:
        raise SourceError(f"{directory}: cannot be read: {exc.strerror}") from exc
    yield from _walk(root, ((info.st_dev, info.st_ino),), on_failure, suffixes)


def vanished(directory: Path, paths: Iterable[bytes]) -> list[bytes]:
    """Those of the indexed paths below `directory` at which nothing is any more.

    A picture inside another file is gone when that file is; what else the file holds is not the folder's to say.
    """
    root = os.path.join(os.path.abspath(os.fsencode(directory)), b"")
    return [path for path in paths if path.startswith(root) and _is_gone(path)]


def _is_gone(path: bytes) -> bool:
    return nothing_at(path) and all(nothing_at(container) for container, _ in containers(path))


def nothing_at(path: bytes) -> bool:
    """Whether nothing is there. A folder that may not be looked into says nothing about its files."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def regular_file(path: bytes, on_failure: Callable[[Failure], None]) -> os.stat_result | None:
    """The state of the file at a path; None, and a line for the ledger, if there is none."""
    try:
        info = os.stat(path)
    except (OSError, ValueError) as exc:
        on_failure(stat_failure(path, exc))
        return None
    if stat.S_ISREG(info.st_mode):
        return info
    on_failure(Failure(path, "not_a_file", "is a directory, FIFO, socket or device, not a file", 0, 0))
    return None


def _walk(
    directory: bytes,
    above: tuple[tuple[int, int], ...],
    on_failure: Callable[[Failure], None],
    suffixes: tuple[bytes, ...],
) -> Iterator[FoundFile]:
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as exc:
        on_failure(stat_failure(directory, exc))
        return
    for name in names:
        path = os.path.join(directory, name)
        wanted = name.lower().endswith(suffixes)
        try:
            info = os.stat(path)
        except OSError as exc:
            if wanted:
                on_failure(stat_failure(path, exc))
            continue
        if stat.S_ISDIR(info.st_mode):
            here = (info.st_dev, info.st_ino)
            if here not in above:
                yield from _walk(path, (*above, here), on_failure, suffixes)
        elif wanted and stat.S_ISREG(info.st_mode):
            yield FoundFile(path, info.st_size, info.st_mtime_ns)
        elif wanted:
            # A FIFO named x.jpg would block its reader for ever.
            on_failure(Failure(path, "not_a_file", "is a FIFO, socket or device, not a file", 0, 0))


def stat_failure(path: bytes, error: OSError | ValueError) -> Failure:
    """The ledger's line for a path that cannot be looked at."""
    reason = "vanished" if isinstance(error, FileNotFoundError) else "unreadable"
    detail = error.strerror if isinstance(error, OSError) else str(error)
    return Failure(path, reason, detail or type(error).__name__, 0, 0)
