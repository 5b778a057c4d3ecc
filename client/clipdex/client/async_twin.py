"""What the asyncio twins of blocking objects share: opening in a thread, threads of their own, and closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from clipdex.base.errors import ClipdexError, Closed
from clipdex.base.one_process import OfOneProcess
from clipdex.client.driving import drive
from clipdex.client.steps import Steps

__all__ = ["AsyncTwin"]


class _Closable(Protocol):
    def close(self) -> None: ...


_B = TypeVar("_B", bound=_Closable)
_T = TypeVar("_T")


class AsyncTwin(OfOneProcess, Generic[_B]):
    """A blocking object that is opened in a thread when the `async with` begins, and whose steps are awaited.

    threads: its own, which it ends. closed, unopened: the errors' words once it is closed, and before it is open.
    """

    def __init__(
        self, opened: Callable[[], _B], threads: ThreadPoolExecutor, *, closed: str, unopened: str
    ) -> None:
        self._open = opened
        self._blocking: _B | None = None
        self._closed = False
        self._threads = threads
        self._closed_words, self._unopened_words = closed, unopened

    async def __aenter__(self) -> Self:
        self._require_open()
        made = self._threads.submit(self._open)
        try:
            self._blocking = await asyncio.wrap_future(made)
        except BaseException:
            self._closed = True
            made.add_done_callback(_close_unwanted)  # its thread cannot be cancelled, and may still open it
            self._threads.shutdown(wait=False)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._closed:
            await self._end()

    async def _end(self) -> None:
        try:
            await self._in_thread(self._opened().close)
        finally:
            self._closed = True
            self._threads.shutdown(wait=False)

    def _opened(self) -> _B:
        self._require_open()
        if self._blocking is None:
            raise ClipdexError(self._unopened_words)
        return self._blocking

    def _require_open(self) -> None:
        if self._closed:
            raise Closed(self._closed_words)

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        self._require_open()
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def _drive(self, steps: Steps[_T]) -> _T:
        return await drive(steps, self._threads, self._require_open)  # another task may leave the `async with`


def _close_unwanted(made: Future[_B]) -> None:
    if not made.cancelled() and made.exception() is None:
        made.result().close()
