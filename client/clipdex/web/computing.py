"""Answers that take long to compute: computed in their own threads, once for all requests, and kept.

Each thread works on an index that it opened itself, so that no search waits for it. An answer is kept with the
moment of the collection before it was computed, and the state of what else it is made of; it is at least as new.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from clipdex.base.errors import Closed, FingerprintMismatch
from clipdex.index.facets import Facets
from clipdex.index.reader import Index
from clipdex.web.served import HeldCollection

__all__ = ["Computed", "Computing", "Worker", "kept_for"]

_T = TypeVar("_T")

_KEPT = 128  # answers
_MOST_WAITING = 16  # questions
_RETRY_AFTER_S = "2"


@dataclass(frozen=True)
class Computed(Generic[_T]):
    """An answer. stale: what it was made of has changed since, and a newer one is being computed."""

    value: _T
    stale: bool = False


class Worker:
    """The state of one thread: the indexes that it opened, by name, and whether to stop."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._indexes: dict[str, tuple[Index, Facets]] = {}

    def index(self, held: HeldCollection) -> tuple[Index, Facets]:
        """Return an index as of now, and its facets.

        Raises:
            IndexFault: as opening it raises them.
            FingerprintMismatch: another model's index has taken its place.
        """
        if held.name not in self._indexes:
            opened = Index.open(held.directory)
            self._indexes[held.name] = opened, Facets(opened)
        index, facets = self._indexes[held.name]
        try:
            if not index.is_current():
                index.refresh()
        except BaseException:
            del self._indexes[held.name]
            with suppress(Exception):
                index.close()
            raise
        if index.manifest.fingerprint != held.collection.collection.manifest.fingerprint:
            raise FingerprintMismatch(f"{held.directory} was replaced by an index of another model: start again")
        return index, facets

    def progress(self, done: int, total: int) -> None:
        """Stop what reports its progress, if the application ends."""
        if self.stopping.is_set():
            raise Closed("the server is stopping; try again once it has restarted")

    def close(self) -> None:
        """Close the indexes; in the thread that opened them."""
        for index, _ in self._indexes.values():
            index.close()


def kept_for(name: str) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Make the lifespan of routes that compute: the application's state has a Computing by this name."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        computing = Computing(name)
        setattr(app.state, name, computing)
        try:
            yield
        finally:
            await computing.close()

    return lifespan


class Computing:
    """One thread that computes answers, and the answers that it has computed. Close it."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"clipdex-{name}")
        self._worker = Worker()
        self._answers: OrderedDict[Hashable, tuple[object, Any]] = OrderedDict()
        self._running: dict[Hashable, Future[Any]] = {}

    async def answer(
        self,
        held: HeldCollection,
        question: Hashable,
        compute: Callable[[Worker], _T],
        *,
        wait_s: float,
        what: str,
        state: object = None,
    ) -> Computed[_T]:
        """Return the answer to a question about a collection, waiting for it at most `wait_s`.

        Args:
            question: what is asked; of equal ones, one is computed.
            compute: computes it, in the thread.
            what: begins the sentence that says that it is being computed.
            state: of the side files that it depends on: no commit tells that these have changed.

        Raises:
            HTTPException: 503, it is being computed, or too many are.
            ClipdexError: as `compute`.
        """
        key = (held.name, question)
        moment = (await held.collection.moment(), state)
        kept = self._answers.get(key)
        if kept is not None and kept[0] == moment:
            self._answers.move_to_end(key)
            return Computed(kept[1])
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= _MOST_WAITING:
                raise _busy("too many answers are being computed")
            running = self._running[key] = self._threads.submit(compute, self._worker)
            loop = asyncio.get_running_loop()
            running.add_done_callback(lambda done: _told(loop, self._keep, key, moment, done))
        waited = asyncio.wrap_future(running)
        done, _ = await asyncio.wait([waited], timeout=wait_s)
        if done:
            return Computed(waited.result())
        waited.add_done_callback(_seen)
        if kept is not None:
            return Computed(kept[1], stale=True)
        raise _busy(f"{what} being computed")

    def _keep(self, key: Hashable, moment: object, done: Future[Any]) -> None:
        self._running.pop(key, None)
        if not done.cancelled() and done.exception() is None:
            self._answers[key] = (moment, done.result())
            self._answers.move_to_end(key)
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)

    async def close(self) -> None:
        """Stop what is being computed, and end the thread."""
        self._worker.stopping.set()
        for running in list(self._running.values()):
            running.cancel()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._threads.submit(self._worker.close)
        self._threads.shutdown()


def _busy(what: str) -> HTTPException:
    return HTTPException(503, f"{what}; try again in a few seconds", {"Retry-After": _RETRY_AFTER_S})


def _told(loop: asyncio.AbstractEventLoop, keep: Callable[..., None], *given: Any) -> None:
    """Call in the event loop's thread, if it still runs."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(keep, *given)


def _seen(waited: asyncio.Future[Any]) -> None:
    """Take an error that nobody waits for any more."""
    if not waited.cancelled():
        waited.exception()
