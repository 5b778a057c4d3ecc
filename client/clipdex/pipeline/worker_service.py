"""Worker processes that take single pictures at any time, from any thread: started when needed, ended when idle.

A thread for each process gives it one request at a time and waits for the answer, so that a picture that crashes
its worker, or takes too long, costs only itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from clipdex.base.arguments import is_count
from clipdex.base.counting import counted
from clipdex.base.errors import ClipdexError, Closed, ImageError, InvalidArgument, ServerBusy
from clipdex.base.limits import Limits
from clipdex.base.read_request import ReadRequest
from clipdex.base.spool import Spool
from clipdex.pipeline.worker_process import WorkerProcess

__all__ = ["ADVICE", "Given", "WorkerService"]

ADVICE = "use fewer decode workers"

_WAITING = 128  # pictures
_WAITING_BYTES = 512 << 20  # of pictures given as bytes
_IDLE_S = 30.0
_STARTS = 3  # of a worker for one picture
_POLL_S = 3600.0  # a poll without a limit cannot be told from one that a signal ended
_LONGEST_ANSWER = 16 << 20  # a picture may have taken over its worker

_T = TypeVar("_T")


@dataclass(frozen=True)
class Given:
    """A picture: the bytes of its file, or an absolute path, which the worker reads, or where it is in a file.

    holder: what must be kept until the worker has read what `request` names.
    """

    data: bytes | None = field(default=None, repr=False)
    path: bytes = b""
    request: ReadRequest | None = None
    holder: object = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """The bytes that it occupies while it waits."""
        return 0 if self.data is None else len(self.data)

    def located(self) -> tuple[ReadRequest, Spool | None]:
        """Return where a worker reads it, and what must be kept until then. Raises OSError if there is no room."""
        if self.data is None:
            return self.request or ReadRequest(self.path), None
        spool = Spool(self.data)
        return ReadRequest(spool.path, 0, len(self.data), len(self.data), 0), spool


@dataclass
class _Job(Generic[_T]):
    given: Given
    prefix: Callable[[int], bytes]
    parse: Callable[[int, bytes], _T]
    done: Future[_T] = field(default_factory=Future)


class WorkerService:
    """Up to `workers` processes that answer requests about pictures. Safe to share between threads; close it."""

    def __init__(
        self,
        start: Callable[[], WorkerProcess],
        *,
        workers: int,
        limits: Limits,
        waiting: int = _WAITING,
        waiting_bytes: int = _WAITING_BYTES,
        idle_s: float = _IDLE_S,
    ) -> None:
        """start: starts a process. limits: those of its pictures. waiting, waiting_bytes: pictures that may wait.

        idle_s: seconds after which a process without work ends.

        Raises:
            InvalidArgument: workers is less than 1.
        """
        if not is_count(workers, 1):
            raise InvalidArgument(f"workers is {workers!r}; expected a whole number, at least 1")
        self.workers = workers
        self._start = start
        self._limits = limits
        self._waiting, self._waiting_bytes, self._idle_s = waiting, waiting_bytes, idle_s
        self._changed = threading.Condition()
        # Guarded by it:
        self._queue: deque[_Job[Any]] = deque()
        self._queued_bytes = 0
        self._idle = 0  # threads that wait for work
        self._threads: dict[int, threading.Thread] = {}  # by slot
        self._processes: dict[int, WorkerProcess] = {}
        self._closed = False
        self._pid = os.getpid()

    def submit(
        self, given: Given, prefix: Callable[[int], bytes], parse: Callable[[int, bytes], _T]
    ) -> Future[_T]:
        """Queue a picture -> a future of what is made of it.

        Args:
            prefix: the request's beginning, of a slot, the number of a worker. A ReadRequest follows.
            parse: makes the result of the slot and the answer; ImageError says that the picture is at fault.

        The future raises ImageError if the picture cannot be decoded, its worker dies, or it takes too long, and
        ClipdexError if no worker can be started.

        Raises:
            ServerBusy: too many pictures wait already.
            Closed: the service is closed.
        """
        job = _Job(given, prefix, parse)
        with self._changed:
            if self._closed or self._pid != os.getpid():
                raise Closed("these decode workers are closed, or those of another process: make others")
            full = len(self._queue) >= self._waiting
            if full or (self._queue and self._queued_bytes + given.size > self._waiting_bytes):
                raise ServerBusy(
                    f"{counted(len(self._queue), 'picture')} already wait to be decoded: try again a moment later"
                )
            self._queue.append(job)
            self._queued_bytes += given.size
            if self._idle < len(self._queue) and len(self._threads) < self.workers:
                self._start_thread(self._work)
            else:
                self._changed.notify()
        return job.done

    def warm(self) -> None:
        """Start the processes that do not run yet, and do not wait for them: work is expected soon."""
        with self._changed:
            if not self._closed and self._pid == os.getpid():
                for _ in range(self.workers - len(self._threads)):
                    self._start_thread(self._warmed)

    def processes(self) -> list[int]:
        """List the ids of the running processes."""
        with self._changed:
            return [each.process.pid for each in self._processes.values()]

    def close(self) -> None:
        """End the processes. Pictures not done yet fail with Closed. Safe to call twice."""
        if self._pid != os.getpid():
            return  # a forked child: they are the parent's
        with self._changed:
            self._closed = True
            waiting, self._queue, self._queued_bytes = self._queue, deque(), 0
            for worker in self._processes.values():
                worker.process.kill()  # its thread sees the end of its pipe
            threads = list(self._threads.values())
            self._changed.notify_all()
        for job in waiting:
            if job.done.set_running_or_notify_cancel():
                job.done.set_exception(_closed())
        for thread in threads:
            thread.join()

    def _start_thread(self, work: Callable[[int], None]) -> None:
        slot = next(i for i in range(self.workers) if i not in self._threads)
        thread = threading.Thread(target=work, args=(slot,), name=f"clipdex-decode-{slot}", daemon=True)
        self._threads[slot] = thread
        thread.start()

    # The thread of one process

    def _warmed(self, slot: int) -> None:
        with suppress(Exception):  # the first picture will report it
            self._ready(slot)
        self._work(slot)

    def _work(self, slot: int) -> None:
        while (job := self._next(slot)) is not None:
            if not job.done.set_running_or_notify_cancel():
                continue
            try:
                result = self._result(slot, job)
            except BaseException as exc:
                job.done.set_exception(_closed() if self._closed else exc)
            else:
                job.done.set_result(result)
            del job

    def _next(self, slot: int) -> _Job[Any] | None:
        """Wait for work -> None if the thread is to end, and its process has."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._queue or self._closed, self._idle_s)
            self._idle -= 1
            if self._queue:
                job = self._queue.popleft()
                self._queued_bytes -= job.given.size
                return job
            worker = self._processes.pop(slot, None)
            if worker is not None:
                worker.stop()
            del self._threads[slot]
            return None

    def _result(self, slot: int, job: _Job[_T]) -> _T:
        try:
            request, kept = job.given.located()
        except OSError as exc:
            raise ImageError(f"there is no memory to decode it: {exc.strerror}", reason="out_of_memory") from exc
        message = job.prefix(slot) + request.encode()
        worker = self._ready(slot)
        try:
            worker.since = time.monotonic()
            worker.pipe.send_bytes(message)
            answer = self._answer(worker)
        except (EOFError, OSError):  # or an answer that is too long
            self._end(slot, worker)
            raise ImageError(worker.how_it_died(), reason="worker_died") from None
        except _TooLate as exc:
            self._end(slot, worker)
            raise ImageError(str(exc), reason="timeout") from None
        del kept
        return job.parse(slot, answer)

    def _ready(self, slot: int) -> WorkerProcess:
        """Return a slot's process once it takes requests. One that died idle is replaced."""
        found = self._processes.get(slot)
        if found is not None and found.ready and not found.pipe.poll(0):
            return found
        if found is not None:
            self._end(slot, found)
        for attempt in range(1, _STARTS + 1):
            worker = self._start()
            with self._changed:
                self._processes[slot] = worker
                if self._closed:
                    worker.process.kill()
            try:
                while not worker.ready:
                    self._heard(worker)
                return worker
            except (EOFError, OSError, _TooLate):
                self._end(slot, worker)
                if self._closed or attempt == _STARTS:
                    raise worker.never_started(attempt, ADVICE) from None
        raise AssertionError

    def _answer(self, worker: WorkerProcess) -> bytes:
        while (message := self._heard(worker)) is None:
            pass
        return message

    def _heard(self, worker: WorkerProcess) -> bytes | None:
        """Wait for the next message -> the answer, if it is one."""
        left = worker.since + worker.allowed_s(self._limits.file_timeout_s) - time.monotonic()
        if not worker.pipe.poll(min(max(0.0, left), _POLL_S)):
            if left > _POLL_S:
                return None
            raise _TooLate(worker.how_late(self._limits.file_timeout_s))
        message = worker.pipe.recv_bytes(_LONGEST_ANSWER)
        return message if worker.is_answer(message, time.monotonic()) else None

    def _end(self, slot: int, worker: WorkerProcess) -> None:
        worker.stop()
        with self._changed:
            self._processes.pop(slot, None)


class _TooLate(Exception):
    """A worker took too long. Not TimeoutError, which is an OSError."""


def _closed() -> ClipdexError:
    return Closed("the decode workers were closed before they came to this picture")
