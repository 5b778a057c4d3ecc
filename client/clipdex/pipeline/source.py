"""Where pictures come from: anything that can list its files, and say which indexed ones are gone."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from clipdex.errors import SourceError
from clipdex.index.rows import Failure
from clipdex.pipeline.scan import SUFFIXES, FoundFile, scan, stat_failure, vanished

__all__ = ["Folder", "PathList", "Source", "as_source"]

_LONGEST_LIST = 1 << 30  # bytes: ten million paths


class Source(Protocol):
    """A set of files to keep an index up to date with."""

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Every file, in an order that repeats; what cannot be looked at goes to `on_failure`.

        Raises:
            SourceError: the source itself cannot be read.
        """
        ...

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Those of the indexed paths that this source is answerable for, and that are gone."""
        ...

    def nothing_found(self) -> SourceError:
        """What to say when there is no file at all."""
        ...


class Folder:
    """Every picture below a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """As `scan` finds them."""
        return scan(self.directory, on_failure)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Paths below the directory at which nothing is."""
        return vanished(self.directory, paths)

    def nothing_found(self) -> SourceError:
        """Names the suffixes that were looked for."""
        suffixes = " ".join(suffix.decode() for suffix in SUFFIXES)
        return SourceError(f"{self.directory}: holds no picture (looked for {suffixes}, in subfolders too)")


class PathList:
    """The files named, whatever their suffix, each once."""

    def __init__(self, paths: Iterable[bytes], name: str) -> None:
        """name: what to call the list in messages."""
        self._paths = list(dict.fromkeys(os.path.abspath(path) for path in paths if path))
        self._name = name

    @classmethod
    def read(cls, file: Path) -> PathList:
        """The paths in a file, one a line, or separated by NUL bytes if it holds any (as `find -print0` writes).

        Relative paths are meant from the current folder, as for `tar -T`.

        Raises:
            SourceError: the file is missing, cannot be read, or is too large to be a list.
        """
        try:
            with file.open("rb") as opened:
                data = opened.read(_LONGEST_LIST + 1)
        except OSError as exc:
            raise SourceError(f"{file}: cannot be read: {exc.strerror}") from exc
        if len(data) > _LONGEST_LIST:
            raise SourceError(f"{file}: has more than {_LONGEST_LIST >> 20} MiB; a list of paths is expected")
        return cls.parse(data, str(file))

    @classmethod
    def parse(cls, data: bytes, name: str) -> PathList:
        """The paths in a list's bytes."""
        separator = b"\0" if b"\0" in data else b"\n"
        return cls((line.removesuffix(b"\r") for line in data.split(separator)), name)

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """In the order of the list."""
        for path in self._paths:
            try:
                info = os.stat(path)
            except (OSError, ValueError) as exc:
                on_failure(stat_failure(path, exc))
                continue
            if stat.S_ISREG(info.st_mode):
                yield FoundFile(path, info.st_size, info.st_mtime_ns)
            else:
                on_failure(Failure(path, "not_a_file", "is a directory, FIFO, socket or device, not a file", 0, 0))

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """None: a listed file that is gone is a failure, and the list says nothing about others."""
        return []

    def nothing_found(self) -> SourceError:
        """Names the list."""
        return SourceError(f"{self._name}: names no file; expected one path a line")


def as_source(source: Source | str | os.PathLike[str]) -> Source:
    """A path means the folder there."""
    return Folder(Path(source)) if isinstance(source, (str, os.PathLike)) else source
