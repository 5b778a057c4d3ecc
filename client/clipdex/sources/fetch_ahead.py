"""Fetching what is to be decoded next, so that the time a bucket takes to answer does not leave decoders idle."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from types import TracebackType
from typing import Protocol, runtime_checkable

from clipdex.base.errors import Closed
from clipdex.sources.scan import FoundFile

__all__ = ["FetchAhead", "Remote"]

_MOST_BYTES = 512 << 20  # of objects fetched or being fetched, beside one that is larger
_POLL_S = 0.1


@runtime_checkable
class Remote(Protocol):
    """A member that is fetched over a network. at_once: how many of its kind are to be in flight."""

    at_once: int
    size: int

    def fetch(self, limit: int) -> None:
        """Fetch its bytes, if they are at most `limit`. Raises SourceError if no other will come either."""
        ...


class FetchAhead:
    """Threads that fetch the next files of a source, in their order. Use it in a `with`, and once."""

    def __init__(self, limit: int) -> None:
        """limit: bytes of the largest file to fetch."""
        self._limit = limit
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def over(self, files: Iterable[FoundFile]) -> Iterator[FoundFile]:
        """Yield the same files, those over a network once they are fetched. Files of this machine do not wait.

        Raises:
            SourceError: a store cannot be read any more.
        """
        ahead: deque[tuple[FoundFile, Future[None] | None]] = deque()
        held, at_once = 0, 1
        for file in files:
            remote = file.member
            if remote is None and not ahead:
                yield file
                continue
            if remote is not None and isinstance(remote, Remote):
                at_once = remote.at_once
                ahead.append((file, self._begin(remote)))
                held += file.size
            else:
                ahead.append((file, None))
            while ahead and (ahead[0][1] is None or len(ahead) >= at_once or held > _MOST_BYTES):
                first, future = ahead.popleft()
                held -= first.size if future is not None else 0
                self._wait(future)
                yield first
        while ahead:
            first, future = ahead.popleft()
            self._wait(future)
            yield first

    def _begin(self, remote: Remote) -> Future[None]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(remote.at_once, thread_name_prefix="clipdex-fetch")
        return self._threads.submit(remote.fetch, self._limit)

    def _wait(self, future: Future[None] | None) -> None:
        while future is not None:
            if self._closed:
                raise Closed("the run ended")
            try:
                return future.result(_POLL_S)
            except NotYet:
                pass

    def __enter__(self) -> FetchAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
