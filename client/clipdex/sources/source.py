"""The source protocol and its basic kinds: a source lists its files, and says which indexed ones are gone."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.counting import counted
from clipdex.base.errors import SourceError
from clipdex.base.records import Failure
from clipdex.base.text_files import decoded, encoding_of
from clipdex.sources.census import PassedOver, Surveyed, is_costly
from clipdex.sources.examined import examined
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.globs import Scope
from clipdex.sources.locations import LONGEST_PATH, Elsewhere, located
from clipdex.sources.object_store import FETCHES
from clipdex.sources.scan import SUFFIXES, FoundFile, Tree

__all__ = ["Chosen", "Folder", "Keeping", "Matching", "PathList", "Several", "Source"]

_LONGEST_LIST = 1 << 30  # bytes: ten million paths
_LOOKED_AT = 4096  # bytes, to detect an encoding


class Source(Protocol):
    """A set of files to keep an index up to date with."""

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield every file, in a reproducible order; what cannot be examined goes to `on_failure`.

        Raises:
            SourceError: the source itself cannot be read.
        """
        ...

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the indexed paths that belong to this source and are gone."""
        ...

    def nothing_found(self) -> SourceError:
        """Return the error to raise if there is no file at all."""
        ...


class Folder:
    """A source of every picture below a directory."""

    def __init__(
        self, directory: str | os.PathLike[str], *, part: bool = False, exclusion: Exclusion | None = None
    ) -> None:
        """part: it is part of a source, so that an unreadable directory is a failure, and not an error.
        exclusion: what is left out; hidden files and junk if not given.
        """
        self.directory = Path(directory)
        self._tree = Tree(self.directory, part=part, exclusion=exclusion)

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the files that `scan` finds."""
        return self._tree.files(on_failure)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the paths below the directory that are gone; also failures of folders that can be read now."""
        return self._tree.vanished(paths)

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the paths below the directory that exist, but are left out now."""
        return self._tree.left_out(paths)

    def passed_over(self) -> PassedOver:
        """Return what the last pass skipped."""
        return self._tree.passed_over

    def nothing_found(self) -> SourceError:
        """Return the error, which names the suffixes that were looked for, and what else is there."""
        suffixes = " ".join(suffix.decode() for suffix in SUFFIXES)
        found = self._tree.passed_over
        out = found.left_out_files + found.left_out_folders
        there = [counted(sum(found.others.values()), "other file")] if found.others else []
        there += (
            [counted(out, "file or folder that is left out", "files and folders that are left out")] if out else []
        )
        beside = f"; it has {' and '.join(there)}" if there else ""
        return SourceError(
            f"{self.directory}: holds no picture (looked for {suffixes}, in subfolders too){beside}"
        )


class Matching(Folder):
    """A source of every picture whose path matches a glob. Nothing else belongs to it."""

    def __init__(self, glob: str, exclusion: Exclusion | None = None) -> None:
        """Raises InvalidArgument if the text is not a glob."""
        scope = Scope(glob)
        super().__init__(scope.folder, exclusion=(exclusion or Exclusion()).within(scope))
        self._glob = glob

    def nothing_found(self) -> SourceError:
        """Return the error, which names the glob."""
        suffixes = " ".join(suffix.decode() for suffix in SUFFIXES)
        return SourceError(f"{self._glob}: no picture matches (looked for {suffixes})")


class PathList:
    """A source of listed files, whatever their suffix, each once."""

    def __init__(self, paths: Iterable[bytes], name: str, *, fetches: int = FETCHES) -> None:
        """name: the list's name in messages. fetches: objects of a bucket to read at a time."""
        here = os.path.abspath(b".")
        self._paths: dict[bytes, Elsewhere | None] = {}  # path -> why it is not one, or None
        for text in paths:
            found = located(text, here) if text else None
            if isinstance(found, Elsewhere):
                self._paths[text if len(text) <= LONGEST_PATH else text[:200] + b"..."] = found
            elif found is not None:
                self._paths[found] = None
        self._name = name
        self._fetches = fetches

    @classmethod
    def read(cls, file: PathLike, *, fetches: int = FETCHES) -> PathList:
        """Read paths from a file, one per line, or separated by NUL bytes if it has any (as from `find -print0`).

        Relative paths start at the current folder, as for `tar -T`. A byte order mark, as Windows programs write
        it, selects UTF-8 or UTF-16.

        Raises:
            SourceError: the file is missing, cannot be read, is too large for a list, or contradicts its mark.
        """
        try:
            with as_path(file, "the list of paths").open("rb") as opened:
                data = opened.read(_LONGEST_LIST + 1)
        except OSError as exc:
            raise SourceError(f"{file}: cannot be read: {exc.strerror}") from exc
        if len(data) > _LONGEST_LIST:
            raise SourceError(f"{file}: has more than {_LONGEST_LIST >> 20} MiB; expected a list of paths")
        return cls.parse(data, str(file), fetches=fetches)

    @classmethod
    def parse(cls, data: bytes, name: str, *, fetches: int = FETCHES) -> PathList:
        """Parse the bytes of a list. Raises SourceError if they contradict their byte order mark."""
        data = _unmarked(data, name)
        separator = b"\0" if b"\0" in data else b"\n"
        return cls((line.removesuffix(b"\r") for line in data.split(separator)), name, fetches=fetches)

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the files in the order of the list."""

        def named() -> Iterator[tuple[bytes, None]]:
            for path, elsewhere in self._paths.items():
                if elsewhere is not None:
                    on_failure(Failure(path, "not_a_path", elsewhere.why, 0, 0))
                else:
                    yield path, None

        return examined(named(), on_failure, self._fetches)

    def size(self) -> int:
        """Return the number of listed paths."""
        return len(self._paths)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return no path: a listed file that is gone is a failure, and the list says nothing about others."""
        return []

    def nothing_found(self) -> SourceError:
        """Return the error, which names the list."""
        return SourceError(f"{self._name}: names no file; expected one path per line")


def _unmarked(data: bytes, name: str) -> bytes:
    """Return a list's paths as UTF-8 if it has a byte order mark; else unchanged: a path may have any bytes."""
    encoding = encoding_of(data[:4])
    if encoding == "utf-8":
        # UTF-16 without a mark: no NUL-separated list has only one-byte names, and a line break among them.
        start = data[:_LOOKED_AT]
        if b"\0\n" in start and (not any(start[1::2]) or not any(start[::2])):
            raise SourceError(f"{name}: looks like UTF-16 without a byte order mark; save the list as UTF-8")
        return data
    if encoding == "utf-8-sig":
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        return decoded(data).encode()
    except UnicodeError as exc:
        raise SourceError(
            f"{name}: has the byte order mark of {encoding.upper()}, but is not valid; save the list as UTF-8"
        ) from exc


class Several:
    """Several sources, one after the other. A file that two of them name is indexed once."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._found: set[bytes] = set()  # by the last complete pass

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the files in the order of the sources."""
        seen: set[bytes] = set()

        def note(failure: Failure) -> None:
            if failure.path not in seen:
                seen.add(failure.path)
                on_failure(failure)

        for source in self._sources:
            for file in source.files(note):
                if file.path not in seen:
                    seen.add(file.path)
                    yield file
        self._found = seen

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return what one of them leaves out, and none has found."""
        asked = list(paths)
        out = [path for source in self._sources if isinstance(source, Surveyed) for path in source.left_out(asked)]
        return [path for path in dict.fromkeys(out) if path not in self._found]

    def passed_over(self) -> PassedOver:
        """Return what all of them skipped."""
        return PassedOver.sum(source.passed_over() for source in self._sources if isinstance(source, Surveyed))

    def is_costly(self) -> bool:
        """Return whether a pass over one of them is."""
        return any(map(is_costly, self._sources))

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return what any of them reports as gone."""
        asked = list(paths)
        return list(dict.fromkeys(path for source in self._sources for path in source.vanished(asked)))

    def nothing_found(self) -> SourceError:
        """Return the error of the first."""
        if not self._sources:
            return SourceError("no source was given; expected a folder, a list of paths, a tar or a table")
        return self._sources[0].nothing_found()


class Chosen:
    """Selected pictures of a source; the others are skipped."""

    def __init__(self, source: Source, paths: Iterable[bytes]) -> None:
        self._source = source
        self._paths = frozenset(paths)

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the selected files in the order of the source."""

        def note(failure: Failure) -> None:
            if failure.path in self._paths:
                on_failure(failure)

        return (file for file in self._source.files(note) if file.path in self._paths)

    def is_costly(self) -> bool:
        """Return whether a pass over the source is."""
        return is_costly(self._source)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the selected ones that the source reports as gone."""
        return self._source.vanished(path for path in paths if path in self._paths)

    def nothing_found(self) -> SourceError:
        """Return the error of the source."""
        return self._source.nothing_found()


class Keeping:
    """A source that reports nothing below some folders as gone, as their disks are not mounted now."""

    def __init__(self, source: Source, away: Iterable[Path]) -> None:
        self.whole = getattr(source, "whole", source)
        self._source = source
        self._away = tuple(os.path.join(os.path.abspath(os.fsencode(folder)), b"") for folder in away)

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the files of the source."""
        return self._source.files(on_failure)

    def is_costly(self) -> bool:
        """Return whether a pass over the source is."""
        return is_costly(self._source)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return what the source reports as gone, but nothing below the folders."""
        return self._source.vanished(path for path in paths if not path.startswith(self._away))

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return what the source leaves out."""
        return self._source.left_out(paths) if isinstance(self._source, Surveyed) else []

    def passed_over(self) -> PassedOver:
        """Return what the source skipped."""
        return self._source.passed_over() if isinstance(self._source, Surveyed) else PassedOver()

    def nothing_found(self) -> SourceError:
        """Return the error of the source."""
        return self._source.nothing_found()
