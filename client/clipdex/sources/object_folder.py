"""Sources of pictures in a bucket: all below a prefix, or objects that are named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from clipdex.base.errors import SourceError
from clipdex.base.records import Failure
from clipdex.sources.census import PassedOver
from clipdex.sources.examined import examined
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.object_store import FETCHES, Bucket, parts_of
from clipdex.sources.object_tree import ObjectTree
from clipdex.sources.scan import SUFFIXES, FoundFile

__all__ = ["ObjectFolder", "Objects"]


class ObjectFolder:
    """A source of every picture below a prefix of a bucket, known by the listing: no request per object."""

    def __init__(
        self, bucket: Bucket, prefix: str, *, exclusion: Exclusion | None = None, fetches: int = FETCHES
    ) -> None:
        """exclusion: what is left out; hidden names and junk if not given. fetches: objects read at a time."""
        self._tree = ObjectTree(bucket, prefix, exclusion=exclusion, fetches=fetches)

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the pictures in the store's order, which is that of the names' bytes."""
        return self._tree.files(on_failure)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the indexed paths below the prefix that the last complete listing did not have."""
        return self._tree.vanished(paths)

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the indexed paths below the prefix that exist, but are left out now."""
        return self._tree.left_out(paths)

    def passed_over(self) -> PassedOver:
        """Return what the last complete listing skipped."""
        return self._tree.passed_over

    def nothing_found(self) -> SourceError:
        """Return the error, which names the suffixes that were looked for."""
        suffixes = " ".join(suffix.decode() for suffix in SUFFIXES)
        return SourceError(f"{self._tree.url}: holds no picture (looked for {suffixes}, below it too)")


class Objects:
    """A source of objects that are named, whatever their suffix: one request for each."""

    def __init__(self, urls: Iterable[str], *, fetches: int = FETCHES) -> None:
        """Raises SourceError if one names no bucket."""
        self._urls = list(dict.fromkeys(urls))
        self._fetches = fetches
        for url in self._urls:
            parts_of(url)

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield them in their order; one that does not exist is a failure."""
        named = ((url.encode("utf-8", "surrogateescape"), None) for url in self._urls)
        return examined(named, on_failure, self._fetches)

    def size(self) -> int:
        """Return the number of objects."""
        return len(self._urls)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return no path: one that is gone is a failure."""
        return []

    def nothing_found(self) -> SourceError:
        """Return the error, which names the first."""
        return SourceError(f"{self._urls[0]}: there is no such object")
