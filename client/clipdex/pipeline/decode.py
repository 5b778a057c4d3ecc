"""Decoding on all cores into a ring of shared memory, in worker processes that can be lost and replaced."""

from __future__ import annotations

import heapq
import json
import select
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import TypeAlias, TypeVar

from clipdex.base.cpus import usable_cpus
from clipdex.base.errors import InvalidArgument
from clipdex.base.limits import Limits
from clipdex.base.records import Failure, KnownFile, Picture, maker
from clipdex.model.card import ImageSpec
from clipdex.model.picture_rules import EXACT, PictureRules
from clipdex.pipeline.decode_worker import DECODED, HEADER, NO_HASH, NO_SLOT, SLOT, UNCHANGED, told_by
from clipdex.pipeline.large_pictures import machine_memory
from clipdex.pipeline.ring import PixelRing
from clipdex.pipeline.worker_process import FAILED_STARTS_IN_A_ROW, WorkerProcess, refused
from clipdex.sources.scan import FoundFile

__all__ = ["DECODER", "DecodePool", "Decoded", "Unchanged", "start_decoder"]

# The module whose `main` a worker runs, and arguments beside those that every worker gets.
DECODER = ("clipdex.pipeline.decode_worker",)

# Files queued at a worker, including the one it decodes, so that it need not wait for the next: for so long,
# within these bounds. All workers together: each file of a table or bucket holds a descriptor. The paths must fit
# into a worker's pipe while it waits for us to read an answer.
_QUEUED_S = 0.02
_QUEUED = 3
_MOST_QUEUED = 128
_MOST_OF_EACH, _MOST_OF_ALL = 16, 512
_MOST_QUEUED_BYTES = 1 << 15

# With so few answers, the time that a file takes is not known.
_FEW_ANSWERS = 16

# Each time that answers are read, files are looked up and sent, and the other thread is woken. So an answer waits
# for others: for at most so long, and for half the time that any worker is sure to be busy.
_TOGETHER_S = 0.002
_QUICKEST_S = 20e-6

# New work may become available while the thread waits for answers.
_POLL_MS = 50


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture, whose pixels are in the ring until their tray is released; `slot` is their place in the tray.

    known: what the index has of its path, as the file said.
    """

    picture: Picture
    slot: int
    known: KnownFile | None = None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A file with unchanged content. It was not decoded: its picture has no width, height or signature.

    known: as in Decoded.
    """

    picture: Picture
    known: KnownFile | None = None


Result: TypeAlias = Decoded | Unchanged | Failure

_make_picture, _make_decoded = maker(Picture), maker(Decoded)

_W = TypeVar("_W", bound=WorkerProcess)


@dataclass
class _Worker(WorkerProcess):
    # (order, file) of the files it was given and has not answered, oldest first.
    given: deque[tuple[int, FoundFile]] = field(default_factory=deque)
    given_bytes: int = 0  # of their paths
    to_send: list[tuple[int, bytes]] = field(default_factory=list)  # order, request: the newest of them
    unsent: int | None = None  # the order of the first of these that could not be sent, as it had died

    def takes_more(self, depth: int) -> bool:
        """Return whether another file may be queued, of so many."""
        queued = len(self.given)
        return queued < _QUEUED or (queued < depth and self.given_bytes < _MOST_QUEUED_BYTES)


class DecodePool:
    """A pool of workers that turns files into pixels, in their order. Use it in a `with`, and once.

    The n-th file's pixels go to the n-th slot of the ring, counted across trays, whether it can be decoded or not.
    The ring bounds what is decoded ahead: a tray is used again once it is released.

    busy: total seconds of all workers: `decode` (including reading) and `resize`.

    If a worker dies, or takes longer than `limits.file_timeout_s`, the file it was decoding becomes a Failure, the
    worker is replaced, and its queued files are given to another.
    """

    def __init__(
        self,
        spec: ImageSpec,
        ring: PixelRing,
        *,
        workers: int | None = None,
        limits: Limits | None = None,
        rules: PictureRules = EXACT,
        exif: bool = False,
        decodes: bool = True,
        decoder: Sequence[str] = DECODER,
    ) -> None:
        """workers: processes; one for each core that this process may use if not given. rules: see `PictureRules`.

        exif: also read what pictures say of themselves. decodes: False reads files without decoding them; each
            gives `Unchanged`, or a Failure. decoder: what the workers run, for measurements without decoding.
        """
        if workers is not None and workers < 1:
            raise InvalidArgument(f"workers is {workers}; expected at least 1")
        self.busy = {"decode": 0.0, "resize": 0.0}
        self._spec = spec
        self._ring = ring
        self._count = workers or usable_cpus()
        self._rules = rules
        self._exif = exif
        self._decodes = decodes
        self._decoder = decoder
        self._limits = (limits or Limits()).within(machine_memory())
        self._workers: list[_Worker] = []
        self._lock = threading.Condition()
        # Guarded by the lock:
        self._done: dict[int, Result] = {}
        self._taken = 0  # the order of the next result to hand out
        self._room = ring.slots  # files up to here may be given out
        self._total: int | None = None  # the number of files, once the source has ended
        self._error: BaseException | None = None
        self._closing = False
        # The serving thread's own:
        self._again: deque[tuple[int, FoundFile]] = deque()
        self._settled: dict[int, Result] = {}
        self._answers = 0
        self._failed_starts = 0  # in a row
        self._thread: threading.Thread | None = None

    def decode(self, files: Iterator[FoundFile]) -> Iterator[Result]:
        """Yield one result per file, in the files' order. `files` is consumed in another thread."""
        return (result for results in self.decode_within(None, files) for result in results)

    def decode_within(self, patience_s: float | None, files: Iterator[FoundFile]) -> Iterator[list[Result]]:
        """Like `decode`, but yield all results that are there; [] after each `patience_s` seconds without one."""
        for _ in range(self._count):
            self._workers.append(self._start())  # one by one: if one fails, `close` ends those before it
        self._thread = threading.Thread(target=self._serve, args=(files,), name="clipdex-decode", daemon=True)
        self._thread.start()
        while True:
            results = []
            with self._lock:
                if self._lock.wait_for(self._next_is_known, patience_s):
                    while self._taken in self._done:
                        results.append(self._done.pop(self._taken))
                        self._taken += 1
                    if not results:
                        if self._error is not None:
                            raise self._error
                        return
            yield results

    def _next_is_known(self) -> bool:
        return self._taken in self._done or self._error is not None or self._taken == self._total

    def release_tray(self) -> None:
        """Release the oldest tray, whose pixels are not needed any more."""
        with self._lock:
            self._room += self._ring.rows
            self._lock.notify_all()

    def close(self) -> None:
        """End the workers."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join()
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The thread that feeds the workers and listens to them

    def _serve(self, files: Iterator[FoundFile]) -> None:
        try:
            order, ended = 0, False
            while True:
                ended, order = self._feed(files, order, ended)
                busy = {worker.pipe.fileno(): worker for worker in self._workers if worker.given}
                if self._closing:
                    return
                if not busy:
                    if ended and not self._again:
                        break
                    self._wait_for_room(order)
                    continue
                poll = select.poll()
                for descriptor in busy:
                    poll.register(descriptor, select.POLLIN)
                if poll.poll(_POLL_MS):
                    time.sleep(self._pause_s())
                    for descriptor, _ in poll.poll(0):
                        self._receive(busy[descriptor])
                self._watch()
                self._hand_on()
            with self._lock:
                self._total = order
                self._lock.notify_all()
        except BaseException as exc:
            self._hand_on()
            with self._lock:
                self._error = exc
                self._lock.notify_all()

    def _feed(self, files: Iterator[FoundFile], order: int, ended: bool) -> tuple[bool, int]:
        """Hand out files evenly, within the bounds -> (whether the source has ended, the next order)."""
        depth, workers = self._depth(), self._workers
        waiting = [(len(worker.given), number) for number, worker in enumerate(workers)]
        waiting = [(queued, number) for queued, number in waiting if workers[number].takes_more(depth)]
        heapq.heapify(waiting)
        while waiting:
            queued, number = waiting[0]
            worker = workers[number]
            if self._again:
                self._give(worker, *self._again.popleft())
            elif not ended and order < self._room and (file := next(files, None)) is not None:
                self._give(worker, order, file)
                order += 1
            else:
                ended = ended or order < self._room
                break
            if worker.takes_more(depth):
                heapq.heapreplace(waiting, (queued + 1, number))
            else:
                heapq.heappop(waiting)
        for worker in workers:
            self._send(worker)
        return ended, order

    def _depth(self) -> int:
        """Return how many files are queued at each worker."""
        if self._answers < _FEW_ANSWERS:
            return _QUEUED
        most = min(_MOST_QUEUED, max(_MOST_OF_EACH, _MOST_OF_ALL // self._count))
        return int(min(most, max(_QUEUED, _QUEUED_S / self._each_s())))

    def _pause_s(self) -> float:
        """Return how long an answer waits for others."""
        least = min(len(worker.given) for worker in self._workers if worker.given)
        return min(_TOGETHER_S, least * self._each_s() / 2)

    def _each_s(self) -> float:
        """Return the seconds that a worker takes for a file, or a little less."""
        return max(_QUICKEST_S, sum(self.busy.values()) / max(1, self._answers))

    def _wait_for_room(self, order: int) -> None:
        with self._lock:
            while order >= self._room and not self._closing:
                self._lock.wait()

    def _give(self, worker: _Worker, order: int, file: FoundFile) -> None:
        if worker.ready and not worker.given:
            worker.since = time.monotonic()
        worker.given.append((order, file))
        worker.given_bytes += len(file.path)
        slot = self._ring.slot_of(order) if self._decodes else NO_SLOT
        worker.to_send.append((order, SLOT.pack(slot, file.content_hash or NO_HASH) + file.request()))

    def _send(self, worker: _Worker) -> None:
        """Send what a worker was given. If it has died, `_receive` finds the end of its pipe and handles it."""
        if not worker.to_send:
            return
        (first, _), messages = worker.to_send[0], [message for _, message in worker.to_send]
        worker.to_send.clear()
        try:
            worker.send(messages)
        except ConnectionError:
            if worker.unsent is None:
                worker.unsent = first

    def _receive(self, worker: _Worker) -> None:
        try:
            messages = worker.receive()
        except (EOFError, ConnectionError):
            self._replace(worker, "worker_died")
            return
        now = time.monotonic()
        for message in messages:
            if not worker.is_answer(message, now):
                if message == b"":
                    self._failed_starts = 0
                continue
            order, file = worker.given.popleft()
            worker.given_bytes -= len(file.path)
            self._answers += 1
            self._settle(order, self._result(order, file, message))

    def _result(self, order: int, file: FoundFile, message: bytes) -> Result:
        status, width, height, size, mtime_ns, ctime_ns, digest, decode_s, resize_s = HEADER.unpack_from(message)
        # For a member, it is the ctime at which its container was listed, not that of the read.
        ctime = file.ctime_ns if file.member is not None else ctime_ns or file.ctime_ns
        self.busy["decode"] += decode_s
        self.busy["resize"] += resize_s
        if status in (DECODED, UNCHANGED):
            signature, exif = told_by(message)
            picture = _make_picture(
                file.path, size, mtime_ns, digest, width, height, file.said(), signature, ctime, exif
            )
            if status == UNCHANGED:
                return Unchanged(picture, file.known)
            return _make_decoded(picture, order % self._ring.rows, file.known)
        reason, _, detail = message[HEADER.size :].decode().partition("\0")
        return Failure(file.path, reason, detail, size or file.size, mtime_ns or file.mtime_ns, ctime)

    def _settle(self, order: int, result: Result) -> None:
        self._settled[order] = result

    def _hand_on(self) -> None:
        """Hand over what was settled. The other thread is woken only if its next result is there."""
        if self._settled:
            with self._lock:
                self._done.update(self._settled)
                if self._taken in self._done:
                    self._lock.notify_all()
            self._settled.clear()

    def _watch(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if worker.given and now - worker.since > worker.allowed_s(self._limits.file_timeout_s):
                self._replace(worker, "timeout")

    def _replace(self, worker: _Worker, reason: str) -> None:
        worker.stop()
        if not worker.ready:
            # It never read what it was given.
            self._failed_starts += 1
            if self._failed_starts > FAILED_STARTS_IN_A_ROW:
                raise worker.never_started(self._failed_starts, "try --workers 1")
            self._again.extendleft(reversed(worker.given))
        elif worker.given[0][0] == worker.unsent:
            # It had answered all that reached it, and died idle, as if killed by the kernel: no file is to blame.
            self._again.extendleft(reversed(worker.given))
        else:
            (order, file), *rest = worker.given
            late = worker.how_late(self._limits.file_timeout_s)
            detail = late if reason == "timeout" else worker.how_it_died()
            self._again.extendleft(reversed(rest))
            self._settle(order, Failure(file.path, reason, detail, file.size, file.mtime_ns, file.ctime_ns))
        self._workers[self._workers.index(worker)] = self._start()

    def _start(self) -> _Worker:
        return start_decoder(
            _Worker,
            self._ring,
            self._spec,
            self._limits,
            self._rules,
            exif=self._exif,
            advice="use fewer workers with --workers",
            decoder=self._decoder,
        )


def start_decoder(
    kind: type[_W],
    ring: PixelRing,
    spec: ImageSpec,
    limits: Limits,
    rules: PictureRules,
    *,
    exif: bool,
    advice: str,
    decoder: Sequence[str] = DECODER,
) -> _W:
    """Start a process that decodes into a ring. Raises ClipdexError, which ends with the advice."""
    module, *more = decoder
    told = *(json.dumps(asdict(each)) for each in (spec, limits, rules)), *(["exif"] if exif else []), *more
    try:
        memory = ring.open_for_workers()
    except OSError as exc:
        raise refused(exc, advice) from exc
    return kind.start(module, memory, told, advice=advice)
