"""An object of a bucket as a file that can be read anywhere: in blocks, a few ahead of who reads on."""

from __future__ import annotations

import errno
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from clipdex.base.errors import ImageError
from clipdex.sources.object_store import Bucket, Listed

__all__ = ["ObjectFile", "read_spans"]

_BLOCK = 2 << 20  # bytes of a request
_AHEAD = 6  # blocks requested beyond the one that is read
_KEPT = 64  # blocks in memory, of all objects together
_THREADS = 16
_NEAR = 128 << 10  # bytes between parts that are read with them


class ObjectFile(io.RawIOBase):
    """A seekable file of the bytes of an object, in the version that was listed.

    A read returns all that was asked for, up to the end. It raises FileNotFoundError if the object was changed or
    deleted, OSError if it cannot be read, and SourceError if the whole store cannot.
    """

    def __init__(self, bucket: Bucket, listed: Listed) -> None:
        self._bucket, self._listed, self._at = bucket, listed, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._listed.size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "the position is before the start")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer, unless the object ends before -> the number of bytes."""
        view = memoryview(buffer).cast("B")
        end = max(self._at, min(self._listed.size, self._at + len(view)))
        first = self._at
        while self._at < end:
            number, begin = divmod(self._at, _BLOCK)
            piece = _block(self._bucket, self._listed, number)[begin : begin + end - self._at]
            view[self._at - first : self._at - first + len(piece)] = piece
            self._at += len(piece)
        return end - first


def read_spans(bucket: Bucket, listed: Listed, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """Read parts of an object, each (offset, length): from blocks in memory, else by one request if they are near.

    Raises:
        ImageError: the object was changed or deleted, or cannot be read.
        SourceError: the whole store cannot be read.
    """
    start, end = min(at for at, _ in spans), max(at + length for at, length in spans)
    if len(spans) > 1 and end - start > sum(length for _, length in spans) + _NEAR:
        return [data for span in spans for data in read_spans(bucket, listed, [span])]
    if start == end:
        return [b""] * len(spans)
    numbers = range(start // _BLOCK, (end - 1) // _BLOCK + 1)
    blocks = _BLOCKS.there(bucket, listed, numbers)
    first = start if blocks is None else numbers[0] * _BLOCK
    data = bucket.read_range(listed, start, end) if blocks is None else b"".join(blocks)
    return [data[at - first : at - first + length] for at, length in spans]


def _block(bucket: Bucket, listed: Listed, number: int) -> bytes:
    try:
        return _BLOCKS.get(bucket, listed, number)
    except ImageError as exc:
        if exc.reason == "vanished":
            raise FileNotFoundError(errno.ENOENT, str(exc)) from exc
        raise OSError(errno.EIO, str(exc)) from exc


class _Blocks:
    """The blocks read last, of all objects; those that follow are requested before they are asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[Bucket, Listed, int], Future[bytes]] = OrderedDict()
        self._threads: ThreadPoolExecutor | None = None

    def get(self, bucket: Bucket, listed: Listed, number: int) -> bytes:
        """Return a block. Raises as `Bucket.read`."""
        with self._lock:
            future = self._requested(bucket, listed, number)
            self._held.move_to_end((bucket, listed, number))
            if (bucket, listed, number - 1) in self._held:  # it is read on and on
                last = (listed.size - 1) // _BLOCK
                for following in range(number + 1, min(number + _AHEAD, last) + 1):
                    self._requested(bucket, listed, following)
            while len(self._held) > _KEPT:
                self._held.popitem(last=False)
        try:
            return future.result()
        except BaseException:
            with self._lock:
                if self._held.get((bucket, listed, number)) is future:
                    del self._held[bucket, listed, number]
            raise

    def there(self, bucket: Bucket, listed: Listed, numbers: range) -> list[bytes] | None:
        """Return blocks if all of them have been read."""
        with self._lock:
            futures = [self._held.get((bucket, listed, number)) for number in numbers]
        blocks = []
        for future in futures:
            if future is None or not future.done() or future.cancelled() or future.exception() is not None:
                return None
            blocks.append(future.result())
        return blocks

    def _requested(self, bucket: Bucket, listed: Listed, number: int) -> Future[bytes]:
        key = (bucket, listed, number)
        if key not in self._held:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="clipdex-blocks")
            start = number * _BLOCK
            self._held[key] = self._threads.submit(
                bucket.read_range, listed, start, min(start + _BLOCK, listed.size)
            )
        return self._held[key]


_BLOCKS = _Blocks()
