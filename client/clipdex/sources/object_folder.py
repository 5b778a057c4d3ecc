"""Sources of pictures in a bucket: all below a prefix, or objects that are named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from clipdex.base.errors import ImageError, SourceError
from clipdex.base.limits import Limits
from clipdex.base.read_request import ReadRequest, refusal
from clipdex.base.records import NO_METADATA, Failure
from clipdex.base.spool import Spool
from clipdex.sources.census import Census, PassedOver
from clipdex.sources.exclusion import Exclusion
from clipdex.sources.locations import TABLE_SUFFIXES, TAR_SUFFIXES
from clipdex.sources.object_store import FETCHES, Bucket, Listed, parts_of
from clipdex.sources.scan import SUFFIXES, FoundFile

__all__ = ["ObjectFolder", "Objects", "object_bytes", "open_objects"]


class ObjectFolder:
    """A source of every picture below a prefix of a bucket, known by the listing: no request per object."""

    def __init__(
        self, bucket: Bucket, prefix: str, *, exclusion: Exclusion | None = None, fetches: int = FETCHES
    ) -> None:
        """exclusion: what is left out; hidden names and junk if not given. fetches: objects read at a time."""
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._exclusion = exclusion or Exclusion()
        self._fetches = fetches
        self._there: frozenset[bytes] | None = None  # by the last complete listing
        self._passed_over = PassedOver()

    @property
    def url(self) -> str:
        """Return the URL of what it covers."""
        return f"{self._bucket.url}/{self._prefix}" if self._prefix else self._bucket.url

    def files(self, on_failure: Callable[[Failure], None]) -> Iterator[FoundFile]:
        """Yield the pictures in the store's order, which is that of the names' bytes."""
        start = len(self._prefix) + 1 if self._prefix else 0
        there: set[bytes] = set()
        census = Census()
        for listed in self._bucket.listed(self._prefix):
            below = listed.key[start:].encode("utf-8", "surrogateescape")
            name = below.rpartition(b"/")[2]
            if not name.lower().endswith(SUFFIXES):
                if name:  # not the mark of an empty folder
                    census.pass_by(name)
                continue
            path = self._bucket.path_of(listed.key)
            there.add(path)
            if self._exclusion.leaves_out_any(below, is_folder=False):
                census.leave_out(name, is_folder=False)
                continue
            yield _found(self._bucket, listed, self._fetches)
        self._there = frozenset(there)  # only now: a listing that ended early says nothing of what it lacks
        self._passed_over = census.result()

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the indexed paths below the prefix that the last complete listing did not have."""
        there = self._there
        return [] if there is None else [path for path in self._ours(paths) if path not in there]

    def left_out(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return the indexed paths below the prefix that exist, but are left out now."""
        start, there = len(self._below()), self._there or frozenset()
        return [
            path
            for path in self._ours(paths)
            if path in there and self._exclusion.leaves_out_any(path[start:], is_folder=False)
        ]

    def passed_over(self) -> PassedOver:
        """Return what the last complete listing skipped."""
        return self._passed_over

    def nothing_found(self) -> SourceError:
        """Return the error, which names the suffixes that were looked for."""
        suffixes = " ".join(suffix.decode() for suffix in SUFFIXES)
        return SourceError(f"{self.url}: holds no picture (looked for {suffixes}, below it too)")

    def _below(self) -> bytes:
        return self._bucket.path_of(f"{self._prefix}/" if self._prefix else "")

    def _ours(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        below = self._below()
        return (path for path in paths if path.startswith(below))


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
        for url in self._urls:
            bucket = Bucket.open(url)
            listed = bucket.head(parts_of(url)[2])
            if listed is None:
                path = url.encode("utf-8", "surrogateescape")
                on_failure(Failure(path, "vanished", "there is no such object", 0, 0))
            else:
                yield _found(bucket, listed, self._fetches)

    def size(self) -> int:
        """Return the number of objects."""
        return len(self._urls)

    def vanished(self, paths: Iterable[bytes]) -> list[bytes]:
        """Return no path: one that is gone is a failure."""
        return []

    def nothing_found(self) -> SourceError:
        """Return the error, which names the first."""
        return SourceError(f"{self._urls[0]}: there is no such object")


def open_objects(
    url: str, *, exclusion: Exclusion | None = None, fetches: int = FETCHES
) -> ObjectFolder | Objects:
    """Open `s3://BUCKET`, `s3://BUCKET/PREFIX` or the URL of one picture; of gs and az too.

    Raises:
        MissingExtra: obstore is not installed.
        SourceError: it names no bucket, or a tar or table, which is not read from a bucket.
    """
    _, _, key = parts_of(url)
    name = key.lower().encode("utf-8", "surrogateescape")
    if name.endswith((*TAR_SUFFIXES, *TABLE_SUFFIXES)):
        raise SourceError(f"{url}: tars and tables are not read from a bucket yet; download it and give its path")
    bucket = Bucket.open(url)
    if name.endswith(SUFFIXES):
        return Objects([url], fetches=fetches)
    return ObjectFolder(bucket, key, exclusion=exclusion, fetches=fetches)


def object_bytes(url: str, limit: int) -> bytes | None:
    """Read an object; None if there is none. Raises ClipdexError if it is too large, or cannot be read."""
    bucket = Bucket.open(url)
    listed = bucket.head(parts_of(url)[2])
    return None if listed is None else bucket.read(listed, limit)


def _found(bucket: Bucket, listed: Listed, fetches: int) -> FoundFile:
    member = _Object(bucket, listed, fetches)
    return FoundFile(bucket.path_of(listed.key), listed.size, listed.mtime_ns, member=member, ctime_ns=listed.mark)


class _Object:
    """An object's bytes, fetched once, into memory that a worker can read."""

    def __init__(self, bucket: Bucket, listed: Listed, at_once: int) -> None:
        self.at_once = at_once
        self.size = listed.size
        self._bucket = bucket
        self._listed = listed
        self._message: bytes | None = None
        self._spool: Spool | None = None

    def fetch(self, limit: int) -> None:
        """Read it, if it has no more bytes than `limit`. Raises SourceError if the whole store cannot be read."""
        try:
            data = self._bucket.read(self._listed, limit)
            self._spool = Spool(data)
        except ImageError as exc:
            self._message = refusal(exc.reason, str(exc))
        except (OSError, MemoryError):
            self._message = refusal("out_of_memory", "there is no memory to read the object")
        else:
            identity = (self._listed.size, self._listed.mtime_ns)
            self._message = ReadRequest(self._spool.path, 0, len(data), *identity).encode()

    def request(self) -> bytes:
        # Kept: when a worker dies, its queued files are requested again.
        if self._message is None:
            try:
                self.fetch(Limits().max_file_bytes)
            except SourceError as exc:
                return refusal("unreadable", str(exc))
        assert self._message is not None
        return self._message

    def metadata(self) -> str:
        return NO_METADATA
