"""The same work on many parts, in a thread for each core: numpy lets go of Python's lock meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from clipdex.base.cpus import usable_cpus

__all__ = ["in_threads"]

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def in_threads(work: Callable[[_Part], _Result], parts: Iterable[_Part]) -> Iterator[_Result]:
    """`map`, with the results in order and few of them waiting."""
    threads = usable_cpus()
    with ThreadPoolExecutor(threads, thread_name_prefix="clipdex-duplicates") as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(work, part))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
