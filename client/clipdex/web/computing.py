"""Answers that take long to compute: computed in their own threads, once for all requests, and kept.

Each thread works on an index that it opened itself, so that no search waits for it. An answer is kept with the
moment of the collection before it was computed, and the state of what else it is made of; it is at least as new.

What is being computed goes on while somebody waits for it, or was told to ask again not long ago, and is given up
then. The event loop's thread decides; the other one notices between two steps of the work.
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
from clipdex.collection.withdrawal import Withdrawn
from clipdex.index.facets import Facets
from clipdex.index.reader import Index
from clipdex.web.served import HeldCollection

__all__ = ["Computed", "Computing", "Worker", "kept_for"]

_T = TypeVar("_T")

_KEPT = 128  # answers
_MOST_WAITING = 16  # questions
_RETRY_AFTER_S = "2"
_COMES_BACK_S = 120.0  # in which whoever is told to ask again is expected to


@dataclass(frozen=True)
class Computed(Generic[_T]):
    """An answer. stale: what it was made of has changed since, and a newer one is being computed."""

    value: _T
    stale: bool = False


class Worker:
    """The state of one thread: the indexes that it opened, by name, and whether to stop.

    given_up: set once nobody wants the answer that is being computed.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.given_up = threading.Event()
        self._indexes: dict[str, tuple[Index, Facets]] = {}

    def index(self, held: HeldCollection) -> tuple[Index, Facets]:
        """Return an index as of now, and its facets.

        Raises:
            IndexFault: as opening it raises them.
            FingerprintMismatch: another model's index has taken its place.
        """
        if held.name not in self._indexes:
            opened = Index.open(held.directory)
            self._indexes[held.name] = opened, Facets(opened, self.check)
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

    def check(self) -> None:
        """Stop what asks, if the application ends or nobody wants it any more."""
        if self.stopping.is_set():
            raise Closed("the server is stopping; try again once it has restarted")
        if self.given_up.is_set():
            raise Withdrawn

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


@dataclass
class _Running:
    """An answer that is being computed, or waits for the thread.

    moment: of the collection, before it was begun. waiting: how many wait for it.
    expected_until: when, by the event loop's clock, nobody comes back any more.
    """

    done: Future[Any]
    given_up: threading.Event
    moment: object
    waiting: int = 0
    expected_until: float = 0.0


class Computing:
    """One thread that computes answers, and the answers that it has computed. Close it."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"clipdex-{name}")
        self._worker = Worker()
        self._answers: OrderedDict[Hashable, tuple[object, Any]] = OrderedDict()
        self._running: dict[Hashable, _Running] = {}

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
            running = self._begun(key, moment, compute)
        waited = await self._waited(key, running, wait_s)
        if waited.done():
            answer, stale = waited.result(), running.moment != moment  # it was begun for somebody who asked before
            if stale and key not in self._running:
                self._begun(key, moment, compute)
            return Computed(answer, stale)
        if kept is not None:
            return Computed(kept[1], stale=True)
        raise _busy(f"{what} being computed")

    def _begun(self, key: Hashable, moment: object, compute: Callable[[Worker], _T]) -> _Running:
        """Queue a question for the thread."""
        given_up = threading.Event()

        def computed() -> _T:
            self._worker.given_up = given_up
            return compute(self._worker)

        running = self._running[key] = _Running(self._threads.submit(computed), given_up, moment)
        loop = asyncio.get_running_loop()
        running.done.add_done_callback(lambda _: _told(loop, self._keep, key, running))
        return running

    async def _waited(self, key: Hashable, running: _Running, wait_s: float) -> asyncio.Future[Any]:
        """Wait for an answer at most `wait_s` -> its future; if it is not done, whoever waits has to ask again."""
        loop = asyncio.get_running_loop()
        waited = asyncio.wrap_future(running.done)
        waited.add_done_callback(_seen)
        running.waiting += 1
        try:
            await asyncio.wait([waited], timeout=wait_s)
            if not waited.done():
                running.expected_until = loop.time() + _COMES_BACK_S
            return waited
        finally:
            running.waiting -= 1
            self._give_up_unwanted(loop, key, running)

    def _give_up_unwanted(self, loop: asyncio.AbstractEventLoop, key: Hashable, running: _Running) -> None:
        """Give up an answer that nobody waits for, now or once nobody is expected to come back."""
        if running.waiting or running.done.done():
            return
        if (left_s := running.expected_until - loop.time()) > 0:
            loop.call_later(left_s, self._give_up_unwanted, loop, key, running)
            return
        running.given_up.set()
        running.done.cancel()  # if it still waits for the thread
        self._forget(key, running)

    def _forget(self, key: Hashable, running: _Running) -> None:
        if self._running.get(key) is running:  # it may have been begun again meanwhile
            del self._running[key]

    def _keep(self, key: Hashable, running: _Running) -> None:
        self._forget(key, running)
        done = running.done
        if not done.cancelled() and done.exception() is None:
            self._answers[key] = (running.moment, done.result())
            self._answers.move_to_end(key)
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)

    async def close(self) -> None:
        """Stop what is being computed, and end the thread."""
        self._worker.stopping.set()
        for running in list(self._running.values()):
            running.done.cancel()
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
