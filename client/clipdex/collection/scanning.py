"""Concurrent searches share scans of the index, as concurrent changes share commits.

A search that finds no scan of its filter under way scans at once, in its own thread. Those that arrive meanwhile
wait, and the next scan answers all of them: many queries in one scan cost a fraction of as many scans. Each gets
exactly what a scan of its own would give.

A scan looks for new commits after its queries came, so each search sees all that was committed when it began. It
keeps nobody from moving on to later commits meanwhile: it reads a view, whose rows stay what they are. It ends as
soon as nobody waits for any of its searches.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from clipdex.base.arrays import Array
from clipdex.base.cpus import usable_cpus
from clipdex.collection.withdrawal import Withdrawn
from clipdex.index.asked import Asked, View
from clipdex.index.hits import Hits
from clipdex.index.reader import Index
from clipdex.search.exact import Ranking
from clipdex.search.grouping import Grouping

__all__ = ["Scans", "Wanted"]

_WAITING = 4096  # searches; more block
_HITS_AT_ONCE = 480  # that are made together: one statement of SQLite reads 500 records
_AT_ONCE = 64  # in a scan: more take as much longer as they are more
_DEEPEST = 2048  # hits, those skipped included; a deeper search scans alone, so that others need not wait for it

# Scans of different filters at once; each takes a few megabytes for each core. More share the cores no better.
_SCANS = max(4, usable_cpus() // 2)

# For the searches without a filter: one makes hits while the other scans. They never wait for a filter that takes
# long, which those of the others may.
_THREADS, _FILTER_THREADS = 2, 8


@dataclass
class Wanted:
    """A search for one vector.

    vector: gives it, (D,) or (1, D), and the rows to leave out, as of the index that is searched.
    where, params, grouping, options: as for `Index.search`; the options are top_k, offset and min_score.
    withdrawn: set once nobody waits for it.
    """

    vector: Callable[[Index], tuple[Array, Sequence[int]]]
    where: str | Sequence[int] | Array | None
    params: Mapping[str, Any] | None
    grouping: Grouping | None
    options: dict[str, Any]
    withdrawn: threading.Event
    done: Future[Hits] = field(default_factory=Future)

    def begins(self) -> bool:
        """Note that it is under way -> False if nobody waits for it any more."""
        if self.withdrawn.is_set():
            self.done.cancel()
        return self.done.set_running_or_notify_cancel()

    def shared(self) -> bool:
        """Return whether others may share a scan with it."""
        depth = [number for name in ("top_k", "offset") if (number := self.options.get(name)) is not None]
        return self.grouping is None and all(type(number) is int for number in depth) and sum(depth) <= _DEEPEST

    def filter(self) -> Hashable:
        """A value that is equal for searches with the same filter. None: without one."""
        if self.where is None and self.params is None:
            return None
        if isinstance(self.where, str) and (self.params is None or isinstance(self.params, Mapping)):
            values = {} if self.params is None else self.params
            try:
                key = (self.where, self.params is None, *sorted((k, repr(type(v)), v) for k, v in values.items()))
                hash(key)
                return key
            except TypeError:  # no parameters for SQL: an error of its own
                return object()
        return (id(self.where), id(self.params))


class Scans:
    """Answers searches of an index, those that are under way at the same time together. Safe between threads."""

    def __init__(
        self,
        reading: Callable[[], AbstractContextManager[Index]],
        still: Callable[[object], AbstractContextManager[Index | None]],
    ) -> None:
        """reading, still: as `Core` has them."""
        self._reading, self._still = reading, still
        self._running = 0
        self._ended = threading.Condition()
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[Wanted]] = {}  # by filter, while a scan of that filter is under way
        self._room = threading.BoundedSemaphore(_WAITING)
        self._scans = threading.BoundedSemaphore(_SCANS)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="clipdex-scan")
        self._filter_threads = ThreadPoolExecutor(_FILTER_THREADS, thread_name_prefix="clipdex-filter")

    def start(self, wanted: Wanted) -> Future[Hits]:
        """Scan, or queue a search for the next scan -> a future of its hits."""
        if wanted.shared():
            key = wanted.filter()
            if not self._waits(key, wanted):
                self._scan(key, [wanted])
        else:
            with self._reading() as index:
                vector, excluded = wanted.vector(index)
                options: dict[str, Any] = {"where": wanted.where, "params": wanted.params}
                options |= {"exclude": excluded, "grouping": wanted.grouping, "check": _checking([wanted])}
                options |= wanted.options
                wanted.done.set_result(index.search(vector, **options)[0])
        return wanted.done

    def close(self) -> None:
        """Wait for the scans under way, and end the threads; searches that still wait fail if it is closed."""
        with self._ended:
            self._ended.wait_for(lambda: self._running == 0)
        self._threads.shutdown()
        self._filter_threads.shutdown()

    def _waits(self, key: Hashable, wanted: Wanted) -> bool:
        """Queue a search for the next scan -> False if none is under way, and the caller must scan."""
        with self._lock:
            if key not in self._waiting:
                self._waiting[key] = deque()
                return False
        self._room.acquire()
        with self._lock:
            if key in self._waiting:
                self._waiting[key].append(wanted)
                return True
            self._waiting[key] = deque()
        self._room.release()
        return False

    def _taken(self, key: Hashable, most: int) -> list[Wanted]:
        """Take the waiting searches that somebody still waits for, the oldest first."""
        found: list[Wanted] = []
        with self._lock:
            queue = self._waiting[key]
            while queue and len(found) < most:
                wanted = queue.popleft()
                self._room.release()
                if wanted.begins():
                    found.append(wanted)
        return found

    def _went_on(self, key: Hashable) -> bool:
        """Start the next scan, if any search waits for it -> False if one does, but no thread can be had."""
        with self._lock:
            if not self._waiting[key]:
                del self._waiting[key]
                return True
        try:
            (self._threads if key is None else self._filter_threads).submit(self._next, key)
        except RuntimeError:  # closed, or the interpreter ends
            return False
        return True

    def _next(self, key: Hashable) -> None:
        self._scan(key, self._taken(key, _AT_ONCE))

    def _scan(self, key: Hashable, some: list[Wanted]) -> None:
        """Answer searches in one scan, and start the next one."""
        went_on = False
        with self._ended:
            self._running += 1
        try:
            while some:
                generation, ready, found = self._found(some)
                # While this thread makes the hits, the next scan runs for those that wait; if none does, most of
                # these will soon search again, and are better together.
                went_on = went_on or (bool(self._waiting[key]) and self._went_on(key))
                some = self._left(generation, ready, found)
        except BaseException as exc:
            _fail(some, exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            with self._ended:
                self._running -= 1
                self._ended.notify_all()
            if not went_on and not self._went_on(key):
                self._next(key)

    def _found(
        self, some: Sequence[Wanted]
    ) -> tuple[object, list[tuple[Wanted, Asked]], Sequence[Ranking | Exception]]:
        """Scan for some searches -> the generation of the rows, and what is left to make hits of."""
        with self._reading() as index:
            ready = _prepared(index, some)
            if not ready:
                return None, [], []
            check = _checking([wanted for wanted, _ in ready])
            allowed = index.allowed(some[0].where, some[0].params, check)
            view = index.view()
        with self._scans:
            return view.generation, ready, _ranked(view, ready, allowed)

    def _left(
        self, generation: object, ready: Sequence[tuple[Wanted, Asked]], found: Sequence[Ranking | Exception]
    ) -> list[Wanted]:
        """Make the hits -> the searches to begin again: all, if a compaction has given the rows other numbers."""
        if not ready:
            return []
        with self._still(generation) as index:
            if index is None:
                return [wanted for wanted, _ in ready]
            _give_all(index, [(*each, ranking) for each, ranking in zip(ready, found, strict=True)])
        return []


def _prepared(index: Index, some: Sequence[Wanted]) -> list[tuple[Wanted, Asked]]:
    """Look up and check what is searched for. Those that are wrong fail alone."""
    found = []
    for wanted in some:
        try:
            vector, excluded = wanted.vector(index)
            found.append((wanted, index.asked(vector, exclude=excluded, **wanted.options)))
        except Exception as exc:
            wanted.done.set_exception(exc)
    return found


def _ranked(
    view: View, ready: Sequence[tuple[Wanted, Asked]], allowed: Array | None
) -> Sequence[Ranking | Exception]:
    """Rank the rows for all in one scan; if one cannot be answered, such as for a damaged row, for each alone."""
    try:
        return _watched(view, ready).ranked([one for _, one in ready], allowed)
    except Withdrawn:
        raise
    except Exception as exc:
        if len(ready) == 1:
            return [exc]
    found: list[Ranking | Exception] = []
    for each in ready:
        try:
            found += _watched(view, [each]).ranked([each[1]], allowed)
        except Exception as exc:
            found.append(exc)
    return found


def _watched(view: View, ready: Sequence[tuple[Wanted, Asked]]) -> View:
    return replace(view, check=_checking([wanted for wanted, _ in ready]))


def _checking(some: Sequence[Wanted]) -> Callable[[], None]:
    """Make a function that raises Withdrawn if nobody waits for any of some searches."""

    def check() -> None:
        if all(wanted.withdrawn.is_set() for wanted in some):
            raise Withdrawn

    return check


def _fail(some: Sequence[Wanted], error: BaseException) -> None:
    """Give an error to all searches that have no answer yet."""
    for wanted in some:
        if not wanted.done.done():
            again = copy.copy(error)  # raised in many threads, each with a trace of its own
            again.__cause__ = error
            wanted.done.set_exception(again)


def _give_all(index: Index, found: Sequence[tuple[Wanted, Asked, Ranking | Exception]]) -> None:
    """Make the hits of searches, and wake who waits for them.

    Some together, which takes a third of the time; if that fails, as for a damaged record, each alone.
    """
    some: list[tuple[Wanted, Asked, Ranking]] = []
    for wanted, asked, ranking in found:
        if isinstance(ranking, Ranking):
            some.append((wanted, asked, ranking))
        else:
            _give(index, wanted, asked, ranking)
        if sum(len(each.rows) - one.offset for _, one, each in some) >= _HITS_AT_ONCE:
            _give_some(index, some)
            some = []
    _give_some(index, some)


def _give_some(index: Index, some: Sequence[tuple[Wanted, Asked, Ranking]]) -> None:
    try:
        made = index.hits([asked for _, asked, _ in some], [ranking for *_, ranking in some])
    except Exception:
        for each in some:
            _give(index, *each)
        return
    for (wanted, *_), hits in zip(some, made, strict=True):
        wanted.done.set_result(hits)


def _give(index: Index, wanted: Wanted, asked: Asked, ranking: Ranking | Exception) -> None:
    """Make the hits of a search, and wake who waits for them."""
    try:
        if not isinstance(ranking, Ranking):
            raise ranking
        (hits,) = index.hits([asked], [ranking])
    except Exception as exc:
        wanted.done.set_exception(exc)
    else:
        wanted.done.set_result(hits)
