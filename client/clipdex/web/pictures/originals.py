"""The original files of pictures, opened by row, and only if their content is what was indexed.

An index does not know which folders it was made from, so a file is held by its content: it must be a regular
file, not reached through a link in place of it, and the hash of its bytes must be the row's. A picture in a tar is
a part of that file; one in a table is copied out of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from clipdex.base.errors import ClipdexError, ItemNotFound
from clipdex.base.item_paths import id_of_text
from clipdex.collection.item import StoredItem
from clipdex.sources.locations import TAR_SUFFIXES, containers
from clipdex.sources.opening import member_bytes
from clipdex.sources.tar_shards import tar_span
from clipdex.web.pictures.media_types import media_type

__all__ = ["Original", "Originals"]

_CHUNK = 256 << 10
_KNOWN = 4096  # files whose hash is remembered while they do not change
_SAFELY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_State = tuple[int, ...]


@dataclass
class Original:
    """An open picture file, or the part of another file that it is. Close it.

    name: the last part of its path. media_type: by its first bytes.
    """

    descriptor: int
    offset: int
    size: int
    name: str
    media_type: str = ""
    state: _State = ()

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        """Read the bytes in [start, end). Raises OSError if the file changes meanwhile."""
        at, last = self.offset + start, self.offset + end
        while at < last:
            data = os.pread(self.descriptor, min(_CHUNK, last - at), at)
            if not data or _state(os.fstat(self.descriptor)) != self.state:
                raise OSError(errno.ESTALE, "the file changed while it was sent")
            at += len(data)
            yield data

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Originals:
    """Opens originals, and remembers the hashes of files that have not changed. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[_State, bytes] = OrderedDict()

    def open(self, index: str, item: StoredItem) -> Original:
        """Open the file of a picture. index: its name, for messages. It reads the file once, to check its hash.

        Raises:
            ItemNotFound: it has no file, or one that cannot be read, or has changed since it was indexed.
        """
        what = f"the file of row {item.row} of {index}"
        if item.id is not None and id_of_text(item.path) is not None:
            raise ItemNotFound(f"row {item.row} of {index} was added by id: its picture is not kept")
        try:
            original = _opened(item)
        except (OSError, ValueError, ClipdexError) as exc:
            why = exc.strerror if isinstance(exc, OSError) and exc.strerror else "it is not a regular file"
            raise ItemNotFound(f"{what} cannot be read: {why}") from exc
        try:
            if self._hash(original) != item.content_hash:
                raise ItemNotFound(f"{what} has changed since it was indexed: index its folder again")
            original.media_type, suffix = media_type(os.pread(original.descriptor, 64, original.offset))
            if "." not in original.name:  # a row of a table
                original.name += suffix
        except OSError as exc:
            original.close()
            raise ItemNotFound(f"{what} cannot be read: {exc.strerror}") from exc
        except BaseException:
            original.close()
            raise
        return original

    def _hash(self, original: Original) -> bytes:
        key = (*original.state, original.offset, original.size)
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
                return found
        made = hashlib.blake2b(digest_size=16)
        for chunk in original.chunks(0, original.size):
            made.update(chunk)
        with self._lock:
            self._known[key] = made.digest()
            while len(self._known) > _KNOWN:
                self._known.popitem(last=False)
        return made.digest()


def _opened(item: StoredItem) -> Original:
    """Open a picture's file, or the one that contains it. Raises OSError, ValueError or ClipdexError."""
    raw = os.fsencode(item.path)
    name = os.path.basename(item.path)
    if os.path.lexists(raw):
        descriptor = _regular(raw)
        return _original(descriptor, 0, None, name)
    for container, member in containers(raw):
        if container.lower().endswith(TAR_SUFFIXES) and os.path.isfile(container):
            descriptor = _regular(container)
            try:
                span = tar_span(container, member)
            except BaseException:
                os.close(descriptor)
                raise
            if span is not None:
                return _original(descriptor, *span, name)
            os.close(descriptor)
    data = member_bytes(item.path)
    if data is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return _original(os.dup(file.fileno()), 0, None, name)


def _original(descriptor: int, offset: int, size: int | None, name: str) -> Original:
    info = os.fstat(descriptor)
    return Original(descriptor, offset, info.st_size if size is None else size, name, state=_state(info))


def _regular(path: bytes) -> int:
    """Open a regular file that no link stands for -> its descriptor. Raises OSError or ValueError."""
    descriptor = os.open(path, _SAFELY)
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
    os.close(descriptor)
    raise ValueError("not a regular file")


def _state(info: os.stat_result) -> _State:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
