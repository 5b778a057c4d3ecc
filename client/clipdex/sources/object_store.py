"""One bucket of an object store: listing, reading, and what is wrong with it in a sentence."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from clipdex.base.errors import ImageError, SourceError
from clipdex.base.extras import needs
from clipdex.base.object_paths import WEB, split_object
from clipdex.base.read_request import require_within

if TYPE_CHECKING:
    from obstore import ObjectMeta

__all__ = ["CHANGED", "CONNECT_TIMEOUT", "FETCHES", "RETRIES", "Bucket", "Listed", "OnlyRead", "parts_of"]

FETCHES = 64  # objects that are read at a time
CHANGED = "the object was changed after it was listed"

# A request that fails is tried again, within these limits.
RETRIES: Any = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=45),
    "backoff": {
        "base": 2,
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=5),
    },
}
CONNECT_TIMEOUT = "5s"
_TIMEOUT = "30s"
_STORES_OPEN = 16
_DELETED_AT_ONCE = 1000
_ENDPOINTS = re.compile(r"AWS_ENDPOINT|AZURE_(STORAGE_)?ENDPOINT|GOOGLE_BASE_URL", re.IGNORECASE)
_SETTINGS = re.compile(r"AWS_|GOOGLE_|AZURE_|.*_PROXY$", re.IGNORECASE)

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
_NOT_KNOWN = {
    "AuthenticationFailed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_LONGEST = 200  # characters of what a store says


@dataclass(frozen=True)
class Listed:
    """An object of a listing.

    key: its name in the bucket. etag: with its quotes, as If-Match takes it. mark: a number that changes with it,
    63 bits; None without one.
    """

    key: str
    size: int
    mtime_ns: int
    etag: str | None
    mark: int | None

    @classmethod
    def of(cls, meta: ObjectMeta) -> Listed:
        """Make one of what the store says of an object."""
        etag = _quoted(meta["e_tag"] or "")
        mark = None
        if etag:
            mark = int.from_bytes(hashlib.blake2b(etag.encode(), digest_size=8).digest(), "big") >> 1
        modified = meta["last_modified"]
        # In integers: a float has no room for microseconds since 1970.
        seconds = int(modified.replace(microsecond=0).timestamp())
        mtime_ns = seconds * 1_000_000_000 + modified.microsecond * 1000
        return cls(meta["path"], meta["size"], mtime_ns, etag or None, mark)


class Bucket:
    """A bucket, reached with the credentials that the environment has. Safe to share between threads."""

    def __init__(self, url: str, store: Any) -> None:
        """url: `SCHEME://BUCKET`, for paths and messages. store: one of obstore's."""
        self.url = url
        self._store = store

    @classmethod
    def open(cls, url: str, *, timeout: str = _TIMEOUT) -> Bucket:
        """Open the bucket of a URL. Nothing is sent yet. timeout: of one request with its data, as "30s".

        Raises:
            MissingExtra: obstore is not installed.
            SourceError: the settings of the environment are not valid, or lack what the store needs.
        """
        scheme, bucket, _ = parts_of(url)
        settings = tuple(sorted((name, value) for name, value in os.environ.items() if _SETTINGS.match(name)))
        return _opened(f"{scheme}://{bucket}", settings, timeout)

    def path_of(self, key: str) -> bytes:
        """Return the path of an object in an index."""
        return f"{self.url}/{key}".encode("utf-8", "surrogateescape")

    def listed(self, prefix: str) -> Iterator[Listed]:
        """Yield the objects below a prefix, as a folder's files: `a/b` has `a/b/c`, and not `a/bc`.

        Raises:
            SourceError: the listing fails, at once or on the way.
        """
        try:
            for page in self._store.list(prefix or None, chunk_size=1000):
                for meta in page:
                    yield Listed.of(meta)
        except _errors() as exc:
            raise self._refused(exc) from exc

    def head(self, key: str) -> Listed | None:
        """Return one object as a listing would; None if there is none. Raises SourceError."""
        try:
            return Listed.of(self._store.head(key))
        except FileNotFoundError:
            self._probe(key)  # is there a bucket? the answer to HEAD does not say
            return None
        except _errors() as exc:
            self._probe(key)
            raise self._refused(exc) from exc

    def read(self, listed: Listed, limit: int) -> bytes:
        """Read an object if it is still the one that was listed.

        Raises:
            ImageError: it has changed or vanished, has more than `limit` bytes, or this object cannot be read.
            SourceError: the store cannot be read at all.
        """
        require_within(limit, listed.size)
        return self._read(listed, None)

    def read_range(self, listed: Listed, start: int, end: int) -> bytes:
        """Read the bytes from `start` up to `end`, which is behind it and within the object. Raises as `read`."""
        return self._read(listed, (start, end))

    def fetch(self, key: str, limit: int) -> bytes | None:
        """Read an object as it is now; None if there is none.

        Raises:
            ImageError: it has more than `limit` bytes.
            SourceError: it cannot be read.
        """
        try:
            found = self._store.get(key)
            if found.meta["size"] > limit:
                size = found.meta["size"]
                raise ImageError(f"it has {size:,} bytes, more than the limit of {limit:,}", reason="too_large")
            return bytes(found.bytes())
        except FileNotFoundError as exc:
            if _code(exc) in _NO_BUCKET:
                raise self._refused(exc) from exc
            return None
        except _errors() as exc:
            raise self._refused(exc) from exc

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole, replacing one of that name. Raises SourceError if the store refuses it."""
        try:
            self._store.put(key, data, use_multipart=False)
        except _errors() as exc:
            raise self._refused(exc, "write to") from exc

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; one that is gone counts as deleted. Raises SourceError if the store refuses it."""
        try:
            for start in range(0, len(keys), _DELETED_AT_ONCE):
                some = list(keys[start : start + _DELETED_AT_ONCE])
                try:
                    self._store.delete(some)
                except FileNotFoundError:
                    for key in some:
                        with suppress(FileNotFoundError):
                            self._store.delete(key)
        except _errors() as exc:
            raise self._refused(exc, "delete from") from exc

    def _read(self, listed: Listed, span: tuple[int, int] | None) -> bytes:
        strong = listed.etag is not None and not listed.etag.startswith("W/")  # If-Match takes no weak one
        options: Any = {"if_match": listed.etag} if strong else {}
        if span is not None:
            options["range"] = span
        try:
            found = self._store.get(listed.key, options=options)
            now = Listed.of(found.meta)
            # Without an ETag, or with a store that has never heard of If-Match.
            if (now.size, now.etag) != (listed.size, listed.etag) or (
                listed.etag is None and now.mtime_ns != listed.mtime_ns
            ):
                raise ImageError(CHANGED, reason="vanished")
            data = bytes(found.bytes())
        except FileNotFoundError as exc:
            if _code(exc) in _NO_BUCKET:
                raise self._refused(exc) from exc
            raise ImageError("the object was deleted after it was listed", reason="vanished") from exc
        except _errors() as exc:
            if type(exc).__name__ == "PreconditionError" or _status(exc) == "416":  # shorter than it was
                raise ImageError(CHANGED, reason="vanished") from exc
            self._probe(listed.key)  # is it this object, or the store?
            raise ImageError(f"the store refuses the object: {_said(exc)}", reason="unreadable") from exc
        if len(data) != (listed.size if span is None else span[1] - span[0]):
            raise ImageError("the store ended in the middle of the object", reason="truncated")
        return data

    def _probe(self, key: str) -> None:
        """Raise SourceError if the store cannot be read at all."""
        next(self.listed(key), None)

    def _refused(self, exc: BaseException, done: str = "list or read") -> SourceError:
        text, code, status = str(exc), _code(exc), _status(exc)
        if code in _NO_BUCKET or (isinstance(exc, FileNotFoundError) and not code):
            why = "there is no such bucket; check its name, the region and the endpoint"
        elif "169.254." in text or "metadata.google.internal" in text or "CredentialsNotLoaded" in text:
            why = (
                "no credentials were found in the environment; set them, as AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket"
            )
        elif code in _NOT_KNOWN or status == "401":
            why = (
                f"the store refuses the credentials ({code or 'unauthenticated'}); check those in the environment"
            )
        elif code in _CLOCK:
            why = f"the clock of this machine differs from the store's ({code}); set it"
        elif code in _REGION or "redirect" in text:
            why = "the bucket is in another region; set AWS_REGION to the region of the bucket"
        elif status == "403":
            why = f"the credentials may not {done} the bucket ({code or 'status 403'}); give them that right"
        elif "error sending request" in text or "timed out" in text or "dns error" in text:
            why = "the store cannot be reached; check the network and the endpoint; what was committed is kept"
        else:
            why = f"the store fails: {_said(exc)}"
        return SourceError(f"{self.url}: {why}")


class OnlyRead(Bucket):
    """What is read like a bucket, and cannot be written. what: what it is, for messages."""

    what: str

    def put(self, key: str, data: bytes) -> None:
        """Raise SourceError."""
        raise self._only_read()

    def delete(self, keys: Sequence[str]) -> None:
        """Raise SourceError."""
        raise self._only_read()

    def _only_read(self) -> SourceError:
        return SourceError(f"{self.url}: is {self.what}, which is only read; give a bucket")


def parts_of(url: str) -> tuple[str, str, str]:
    """Split `SCHEME://BUCKET/KEY` -> (scheme, bucket, key). Raises SourceError if there is no bucket in it."""
    scheme, bucket, key = (
        each.decode("utf-8", "surrogateescape") for each in split_object(url.encode("utf-8", "surrogateescape"))
    )
    if not bucket and scheme == "hf":
        raise SourceError(
            f"{url}: names no dataset; expected hf://datasets/OWNER/NAME, with a path behind it or not"
        )
    if not bucket and scheme in WEB:
        raise SourceError(f"{url}: names no web server; expected {scheme}://HOST/FOLDER/")
    if not bucket:
        raise SourceError(f"{url}: names no bucket; expected {scheme}://BUCKET or {scheme}://BUCKET/PREFIX")
    return scheme, bucket, key


@lru_cache(maxsize=_STORES_OPEN)
def _opened(url: str, settings: tuple[tuple[str, str], ...], timeout: str) -> Bucket:
    with needs("obstore", "obstore", "buckets", "reading object stores"):
        from obstore.store import from_url
    endpoints = [value for name, value in settings if _ENDPOINTS.match(name)]
    options: Any = {"timeout": timeout, "connect_timeout": CONNECT_TIMEOUT}
    if any(endpoint.startswith("http:") for endpoint in endpoints):  # as a store on one's own machines
        options["allow_http"] = True
    try:
        return Bucket(url, from_url(url, client_options=options, retry_config=RETRIES))
    except Exception as exc:  # obstore's, and ValueError
        raise SourceError(f"{url}: cannot be opened: {_said(exc)}") from exc


def _quoted(etag: str) -> str:
    """Return an ETag as headers have it: Azure's listings leave its quotes out."""
    return etag if not etag or etag.startswith(('"', "W/")) else f'"{etag}"'


def _errors() -> tuple[type[BaseException], ...]:
    from obstore.exceptions import BaseError

    return (BaseError, OSError)


def _code(exc: BaseException) -> str:
    found = _CODE.search(str(exc))
    return found[1] if found else ""


def _status(exc: BaseException) -> str:
    found = _STATUS.search(str(exc))
    return found[1] if found else ""


def _said(exc: BaseException) -> str:
    text = str(exc).partition("\n")[0]
    status = _status(exc)
    words = _code(exc) or (f"status {status}" if status else "")
    return words or text[:_LONGEST] or type(exc).__name__
