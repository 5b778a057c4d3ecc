"""The objects below a prefix of a bucket, as `Tree` has the files below a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from clipdex.base.records import Failure
from clipdex.sources.census import Census, PassedOver
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.locations import TABLE_SUFFIXES, TAR_SUFFIXES, containers
from clipdex.sources.object_member import found_object
from clipdex.sources.object_store import FETCHES, Bucket
from clipdex.sources.scan import SUFFIXES, FoundFile

__all__ = ["ObjectTree"]

_CONTAINERS = (*TAR_SUFFIXES, *TABLE_SUFFIXES)


class ObjectTree:
    """The objects below a prefix, known by its listing, and the indexed paths that are gone or left out."""

    def __init__(
        self,
        bucket: Bucket,
        prefix: str,
        suffixes: tuple[bytes, ...] = SUFFIXES,
        *,
        exclusion: Exclusion | None = None,
        fetches: int = FETCHES,
    ) -> None:
        """suffixes: of the objects to yield. exclusion: what is left out; hidden names and junk if not given.
        fetches: objects read at a time.
        """
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._suffixes = suffixes
        self._exclusion = exclusion or Exclusion()
        self._fetches = fetches
        self._there: frozenset[bytes] | None = None  # by the last complete listing
        self.passed_over = PassedOver()  # by the last complete listing

    @property
    def url(self) -> str:
        """Return the URL of what it covers."""
        return f"{self._bucket.url}/{self._prefix}" if self._prefix else self._bucket.url

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the objects in the store's order, which is that of the names' bytes."""
        start = len(self._prefix) + 1 if self._prefix else 0
        there: set[bytes] = set()
        census = Census()
        for listed in self._bucket.listed(self._prefix):
            below = listed.key[start:].encode("utf-8", "surrogateescape")
            name = below.rpartition(b"/")[2]
            if not name or not self._exclusion.reaches(below, is_folder=False):  # the mark of an empty folder
                continue
            wanted = name.lower().endswith(self._suffixes)
            if wanted or name.lower().endswith(_CONTAINERS):
                there.add(self._bucket.path_of(listed.key))
            if not wanted:
                census.pass_by(name)
            elif self._exclusion.leaves_out_any(below, is_folder=False):
                census.leave_out(name, is_folder=False)
            else:
                yield found_object(self._bucket, listed, self._fetches)
        self._there = frozenset(there)  # only now: a listing that ended early says nothing of what it lacks
        self.passed_over = census.result()

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the indexed paths below the prefix that the last complete listing did not have.

        A picture inside another object is gone when that is.
        """
        there = self._there
        if there is None:
            return []
        return [
            path
            for path in self._ours(paths)
            if path not in there and not any(container in there for container, _ in containers(path))
        ]

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the indexed paths below the prefix that exist, but are left out now."""
        start, there = len(self._below()), self._there or frozenset()
        return [
            path
            for path in self._ours(paths)
            if path in there and self._exclusion.leaves_out_any(path[start:], is_folder=False)
        ]

    def is_in_place(self) -> bool:
        """Return True: a bucket cannot be unmounted."""
        return True

    def sound_folders(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return no path: a bucket has no folders."""
        return []

    def _below(self) -> bytes:
        return self._bucket.path_of(f"{self._prefix}/" if self._prefix else "")

    def _ours(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        below = self._below()
        return (
            path
            for path in paths
            if path.startswith(below) and self._exclusion.reaches(path[len(below) :], is_folder=False)
        )
