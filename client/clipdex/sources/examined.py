"""Files that a list or table names, examined in their order: on this machine, or objects, many at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from clipdex.base.object_paths import is_object
from clipdex.base.records import Failure
from clipdex.sources.object_member import found_object
from clipdex.sources.object_store import FETCHES, Bucket, Listed, parts_of
from clipdex.sources.remote import open_remote
from clipdex.sources.scan import FoundFile, regular_file

__all__ = ["examined"]

Named = tuple[bytes, str | None]  # a path, and metadata as JSON of an object


def examined(
    named: Iterable[Named], on_failure: Callable[[Failure], None], fetches: int = FETCHES
) -> Iterator[FoundFile]:
    """Yield the files in their order; one that does not exist, or is no regular file, goes to `on_failure`.

    fetches: objects of a bucket to examine, and later to read, at a time.

    Raises:
        SourceError: the store of an object cannot be read.
        MissingExtra: an object, without obstore.
    """
    ahead: deque[tuple[bytes, str | None, Bucket, Future[Listed | None]]] = deque()

    def first() -> Iterator[FoundFile]:
        path, metadata, bucket, future = ahead.popleft()
        listed = future.result()
        if listed is None:
            on_failure(Failure(path, "vanished", "there is no such object", 0, 0))
        else:
            yield found_object(bucket, listed, fetches, metadata)

    with ExitStack() as stack:
        threads: ThreadPoolExecutor | None = None
        for path, metadata in named:
            if not is_object(path):
                while ahead:
                    yield from first()
                info = regular_file(path, on_failure)
                if info is not None:
                    yield FoundFile.of(path, info, metadata)
                continue
            if threads is None:
                threads = ThreadPoolExecutor(fetches, thread_name_prefix="clipdex-examine")
                stack.callback(threads.shutdown, wait=False, cancel_futures=True)
            url = path.decode("utf-8", "surrogateescape")
            bucket = open_remote(url)
            ahead.append((path, metadata, bucket, threads.submit(bucket.head, parts_of(url)[2])))
            if len(ahead) >= fetches:
                yield from first()
        while ahead:
            yield from first()
