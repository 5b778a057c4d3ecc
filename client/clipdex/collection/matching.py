"""Matching by local features in a collection, as steps that a thread or asyncio drives.

The features are opened beside the collection's index, as of one commit, and shared by the matches of that time: a
match may take long, and a later commit waits for none. Once something has changed, the next match opens them
again, and the last one that uses the old ones closes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from clipdex.base.arrays import Array
from clipdex.base.counting import counted
from clipdex.base.cpus import usable_cpus
from clipdex.base.errors import Closed, IndexFault, InvalidArgument, ServerBusy
from clipdex.client.steps import Steps
from clipdex.collection.withdrawal import Withdrawn
from clipdex.features.matching import WITHIN, Match, Matcher, best_rows, check_numbers
from clipdex.index.reader import Index
from clipdex.looks.local_features import LocalFeatures, Recipe
from clipdex.model.images import ImageSource
from clipdex.search.mixture import Query

if TYPE_CHECKING:
    from clipdex.collection.core import Core

__all__ = ["Matching", "match_steps"]

_THREADS = max(1, usable_cpus() // 2)  # a match takes tens of megabytes, and FAISS has threads of its own
_WAITING = 64  # matches, those under way included

_T = TypeVar("_T")


@dataclass
class _Open:
    """A matcher, and who uses it. retired: another one has taken its place; the last user closes it."""

    matcher: Matcher
    users: int = 0
    retired: bool = False

    def close(self) -> None:
        self.matcher.close()
        self.matcher.index.close()


class Matching:
    """Matches pictures with the local features as of the last commit, in threads of its own; close it.

    Safe to share between threads. closing: set once it is being closed; what is under way should end then.
    """

    def __init__(
        self, reading: Callable[[], AbstractContextManager[Index]], require_same: Callable[[Index], Index]
    ) -> None:
        """reading: as `Core` has it. require_same: raises if an index is of another model."""
        self._reading, self._require_same = reading, require_same
        self._lock = threading.Lock()
        self._open: _Open | None = None
        self._room = threading.BoundedSemaphore(_WAITING)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="clipdex-match")
        self.closing = threading.Event()

    def start(self, use: Callable[[Matcher], _T]) -> Future[_T]:
        """Queue work with the matcher -> a future of its result. Cancel it if nobody wants it.

        The future raises NoLocalFeatures if the index has none, and what `use` raises.

        Raises:
            ServerBusy: too many wait already.
            Closed: the collection is closed.
        """
        if not self._room.acquire(blocking=False):
            raise ServerBusy(
                f"{counted(_WAITING, 'picture')} already wait to be matched: try again a moment later"
            )
        try:
            done = self._threads.submit(self._used, use)
        except RuntimeError as exc:
            self._room.release()
            raise Closed("this Collection is closed: open it again with Collection.open") from exc
        done.add_done_callback(lambda _: self._room.release())
        return done

    def close(self) -> None:
        """Wait for the matches under way, and close the features. Those that wait fail, as `reading` does."""
        self.closing.set()
        self._threads.shutdown()
        with self._lock:
            self._retire()

    def _used(self, use: Callable[[Matcher], _T]) -> _T:
        with self._current() as matcher:
            try:
                return use(matcher)
            except IndexFault:
                if _is_current(matcher):
                    raise
        with self._current() as matcher:  # the index was compacted meanwhile, or its features made anew
            return use(matcher)

    @contextmanager
    def _current(self) -> Iterator[Matcher]:
        with self._reading() as index:  # raises if the collection is closed, or the index another one
            directory, filter_timeout_s = index.directory, index.filter_timeout_s
        with self._lock:  # who else wants a matcher would have to wait for it anyway
            if self._open is None or not _is_current(self._open.matcher):
                self._retire()
                self._open = _Open(self._opened(lambda: Index.open(directory, filter_timeout_s=filter_timeout_s)))
            found = self._open
            found.users += 1
        try:
            yield found.matcher
        finally:
            with self._lock:
                found.users -= 1
                if found.retired and not found.users:
                    found.close()

    def _opened(self, open_index: Callable[[], Index]) -> Matcher:
        index = open_index()
        try:
            return Matcher(self._require_same(index))
        except BaseException:
            index.close()
            raise

    def _retire(self) -> None:
        found, self._open = self._open, None
        if found is not None:
            found.retired = True
            if not found.users:
                found.close()


def _is_current(matcher: Matcher) -> bool:
    try:
        return matcher.is_current()
    except IndexFault:  # such as a directory that is gone: opening it says more
        return False


class _Remade(Exception):
    """The features of the index were made anew, another way than the query's."""


def match_steps(
    core: Core,
    image: ImageSource,
    top_k: int,
    *,
    min_inliers: int,
    parts: bool = False,
    within: str | None = None,
    where: str | Sequence[int] | Array | None = None,
    params: Mapping[str, Any] | None = None,
) -> Steps[list[Match]]:
    """Take the steps of `match`."""
    core.require_open()
    matching = core.matching()
    check_numbers(top_k, min_inliers)
    if not isinstance(parts, bool):
        raise InvalidArgument(f"parts is {parts!r:.60}; expected True or False")
    vector = None
    if within is not None:
        (text,) = Query().plus(text=within).texts  # a text as that of any search
        vector = yield from _waited(core.text(text))

    withdrawn = threading.Event()

    def check() -> None:
        if withdrawn.is_set():
            raise Withdrawn
        if matching.closing.is_set():
            raise Closed("this Collection is closed: open it again with Collection.open")

    def matched(query: ImageSource | LocalFeatures, recipe: Recipe | None, matcher: Matcher) -> list[Match]:
        if recipe is not None and recipe != matcher.recipe:
            raise _Remade
        match = partial(matcher.match, top_k=top_k, min_inliers=min_inliers, parts=parts, check=check)
        if vector is None:
            return match(query, where=where, params=params)
        return match(query, where=best_rows(matcher.index, vector, WITHIN, where, params, check))

    try:
        while True:
            query: ImageSource | LocalFeatures = image
            recipe = None
            if core.decoding.workers:
                recipe = yield from _waited(matching.start(lambda matcher: matcher.recipe))
                waiting = core.decoding.features(image, recipe)
                if waiting is not None:
                    query = yield from waiting.steps()
            try:
                return (yield from _waited(matching.start(partial(matched, query, recipe))))
            except _Remade:
                continue
    finally:
        withdrawn.set()


def _waited(future: Future[_T]) -> Steps[_T]:
    try:
        return cast(_T, (yield cast("Future[Array]", future)))
    finally:
        future.cancel()
