"""The one thread that writes to a collection's index: changes from many threads share commits.

A change is staged as soon as it arrives, and a commit includes all changes staged when it begins; those that
arrive during a commit wait for the next. So a hundred concurrent adds cost a few syncs, and a lone one does not
wait for others.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from clipdex.base.counting import counted
from clipdex.base.errors import ClipdexError, Closed, IndexFault, IndexWriteError
from clipdex.index.writer import IndexWriter

__all__ = ["Change", "Commits"]

_WAITING = 4096  # changes; adding more blocks
_AT_ONCE = 16_384  # in a commit
_COMMIT_S = 5.0  # after which changes with flush=False are committed


@dataclass
class Change:
    """A change of an index.

    path: of the row to change; None to only commit. make: stages it, and returns the result of `done`.
    flush: whether `done` waits until it is durable.
    """

    path: bytes | None
    make: Callable[[IndexWriter], Any]
    flush: bool
    done: Future[Any] = field(default_factory=Future)


class Commits:
    """Stages and commits changes in a thread of its own. Safe to share between threads; close it.

    If a commit fails, all changes in it fail with its error; the next change opens the index again.
    """

    def __init__(self, name: str, opened: Callable[[], IndexWriter], writer: IndexWriter | None) -> None:
        """name: the index's, for messages. opened: opens the index for writing.

        writer: an open one, which stays open; without one, the index is locked only while there are changes.
        """
        self._name = name
        self._opened = opened
        self._writer = writer
        self._holds = writer is not None
        self._queue: queue.Queue[Change | None] = queue.Queue(_WAITING)
        self._staged: list[tuple[Change, Any]] = []
        self._paths: set[bytes] = set()
        self._wanted = False  # somebody waits for a commit
        self._due = 0.0
        self._lost: tuple[int, BaseException | None] = (0, None)  # changes that nobody waited for
        self._closed = False
        self._ending = False
        self._putting = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="clipdex-commits", daemon=True)
        self._thread.start()

    def put(self, change: Change) -> Future[Any]:
        """Queue a change -> a future of its result. Blocks while too many wait."""
        with self._putting:
            if self._closed:
                raise Closed(f"this Collection of {self._name} is closed: open it again with Collection.open")
            self._queue.put(change)
        return change.done

    def close(self) -> BaseException | None:
        """Commit what is staged, and end -> the error by which changes with flush=False were lost, if any."""
        with self._putting:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()
        count, why = self._lost
        return self._loss(count, why) if why is not None else None

    def _work(self) -> None:
        while not self._ending:
            try:
                self._turn()
            except BaseException as exc:  # a fault of our own: nobody may wait for ever
                staged, self._staged, self._paths, self._wanted = self._staged, [], set(), False
                for change, _ in staged:
                    if not change.done.done():
                        change.done.set_exception(exc)
                self._let_go()
        self._let_go()

    def _turn(self) -> None:
        """Take the next change, and commit if it is time."""
        try:
            wait = max(0.0, self._due - time.monotonic()) if self._staged else None
            change = self._queue.get(timeout=wait)
        except queue.Empty:
            self._commit()
            return
        if change is None:
            self._ending = True
            self._commit()
        elif change.done.set_running_or_notify_cancel():
            self._stage(change)
        if (self._wanted and self._queue.empty()) or len(self._staged) >= _AT_ONCE:
            self._commit()
        if not self._holds and not self._staged and self._queue.empty():
            self._let_go()

    def _stage(self, change: Change) -> None:
        if change.path in self._paths:  # a path may occur once in a commit
            self._commit()
        try:
            if self._writer is None:
                self._writer = self._opened()
            result = change.make(self._writer)
        except IndexFault as exc:
            self._fail(exc, change)
        except ClipdexError as exc:  # of this change alone
            change.done.set_exception(exc)
        except BaseException as exc:
            self._fail(exc, change)
        else:
            if not self._staged:
                self._due = time.monotonic() + _COMMIT_S
            self._staged.append((change, result))
            self._paths |= set() if change.path is None else {change.path}
            self._wanted = self._wanted or change.flush
            if not change.flush:
                change.done.set_result(result)

    def _commit(self) -> None:
        try:
            if self._writer is not None:
                if self._staged and not self._writer.in_place():
                    raise IndexWriteError(
                        f"{self._name} was moved, replaced or removed while it was open: make the change again"
                    )
                self._writer.commit()
        except BaseException as exc:
            self._fail(exc)
            return
        if not self._holds and self._queue.empty():
            self._let_go()  # before anybody goes on, who may want to write in another way
        for change, result in self._staged:
            if change.path is None and self._lost[1] is not None:
                (count, why), self._lost = self._lost, (0, None)
                change.done.set_exception(self._loss(count, why))
            elif change.flush:
                change.done.set_result(result)
        self._forget()

    def _fail(self, error: BaseException, *more: Change) -> None:
        """Fail all changes since the last commit; the next one reopens the index."""
        changes = [*(change for change, _ in self._staged), *more]
        for change in changes:
            if not change.done.done():
                again = copy.copy(error)  # raised in many threads, each with a trace of its own
                again.__cause__ = error
                change.done.set_exception(again)
        told = any(change.path is None for change in changes)  # somebody waits for all that came before
        lost = 0 if told else sum(not change.flush for change, _ in self._staged)
        self._lost = (self._lost[0] + lost, error) if lost else self._lost
        self._forget()
        self._let_go()

    def _forget(self) -> None:
        self._staged, self._paths, self._wanted = [], set(), False

    def _let_go(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(Exception):  # what was committed is on disk
                writer.close()

    def _loss(self, count: int, why: BaseException | None) -> IndexWriteError:
        return IndexWriteError(
            f"{self._name}: {counted(count, 'change')} made with flush=False did not reach the disk: {why}; "
            "make them again"
        )
