"""Pictures whose bytes are in a bucket, fetched into memory that a decode worker can read."""

from __future__ import annotations

from clipdex.base.errors import ImageError, SourceError
from clipdex.base.limits import Limits
from clipdex.base.read_request import ReadRequest, refusal
from clipdex.base.records import NO_METADATA
from clipdex.base.spool import Spool
from clipdex.sources.object_store import Bucket, Listed, parts_of
from clipdex.sources.remote import open_remote
from clipdex.sources.scan import FoundFile

__all__ = ["ObjectMember", "found_object", "object_bytes"]


class ObjectMember:
    """A picture that is an object, fetched once. A subclass may read the picture from within one."""

    def __init__(
        self, bucket: Bucket, listed: Listed, size: int, at_once: int, metadata: str = NO_METADATA
    ) -> None:
        """size: bytes of the picture. at_once: how many to fetch at a time. metadata: JSON of an object."""
        self.at_once = at_once
        self.size = size
        self._bucket = bucket
        self._listed = listed
        self._metadata = metadata
        self._message: bytes | None = None
        self._spool: Spool | None = None

    def fetch(self, limit: int) -> None:
        """Read it, if it has no more bytes than `limit`. Raises SourceError if the whole store cannot be read."""
        try:
            data = self.read(limit)
            self._spool = Spool(data)
        except ImageError as exc:
            self._message = refusal(exc.reason, str(exc))
        except (OSError, MemoryError):
            self._message = refusal("out_of_memory", "there is no memory to read the object")
        else:
            identity = (self.size, self._listed.mtime_ns)
            self._message = ReadRequest(self._spool.path, 0, len(data), *identity).encode()

    def read(self, limit: int) -> bytes:
        """Return its bytes. Raises as `Bucket.read`."""
        return self._bucket.read(self._listed, limit)

    def request(self) -> bytes:
        """Return the message to the worker."""
        # Kept: when a worker dies, its queued files are requested again.
        if self._message is None:
            try:
                self.fetch(Limits().max_file_bytes)
            except SourceError as exc:
                return refusal("unreadable", str(exc))
        assert self._message is not None
        return self._message

    def metadata(self) -> str:
        """Return what is said of it elsewhere: JSON of an object."""
        return self._metadata


def found_object(bucket: Bucket, listed: Listed, fetches: int, metadata: str | None = None) -> FoundFile:
    """Make the picture of an object. metadata: what a table says of it, as JSON of an object."""
    member = ObjectMember(bucket, listed, listed.size, fetches, metadata or NO_METADATA)
    path = bucket.path_of(listed.key)
    return FoundFile(path, listed.size, listed.mtime_ns, metadata, member=member, ctime_ns=listed.mark)


def object_bytes(url: str, limit: int) -> bytes | None:
    """Read an object; None if there is none. Raises ClipdexError if it is too large, or cannot be read."""
    bucket = open_remote(url)
    listed = bucket.head(parts_of(url)[2])
    return None if listed is None else bucket.read(listed, limit)
