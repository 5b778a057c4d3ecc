"""Thumbnails drawn by killable processes, with a run's limits."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future
from dataclasses import asdict
from types import TracebackType

from clipdex.base.errors import ImageError
from clipdex.base.limits import Limits
from clipdex.pipeline.large_pictures import machine_memory
from clipdex.pipeline.thumbnail_worker import CHANGED, DRAWN, WANTED
from clipdex.pipeline.worker_process import WorkerProcess
from clipdex.pipeline.worker_service import ADVICE, Given, WorkerService
from clipdex.wire.shared_memory import SharedMemory

__all__ = ["CHANGED", "ThumbnailService"]

_NO_HASH = bytes(16)


class ThumbnailService:
    """Up to `workers` processes that draw thumbnails, started when needed. Safe between threads; close it."""

    def __init__(
        self, *, workers: int, limits: Limits | None = None, waiting: int = 128, idle_s: float = 30.0
    ) -> None:
        """waiting: pictures that may wait. idle_s: seconds after which a process without work ends.

        Raises:
            InvalidArgument: workers is less than 1.
        """
        bounds = (limits or Limits()).within(machine_memory())

        def start() -> WorkerProcess:
            rules = [json.dumps(asdict(bounds))]
            memory = os.dup(self._lock.descriptor)
            return WorkerProcess.start("clipdex.pipeline.thumbnail_worker", memory, rules, advice=ADVICE)

        self._service = WorkerService(start, workers=workers, limits=bounds, waiting=waiting, idle_s=idle_s)
        self._lock = SharedMemory(1, named=False)  # what they lock to take turns at large pictures

    def draw(self, given: Given, side: int, most_bytes: int, content_hash: bytes | None = None) -> Future[bytes]:
        """Queue a picture -> a future of its JPEG, at most `side` pixels wide and high, upright and in sRGB.

        most_bytes: of the JPEG. content_hash: that the file must have, 16 bytes.

        The future raises ImageError if it cannot be drawn; `reason` is "changed" if the hash is another.

        Raises:
            ServerBusy: too many pictures wait already.
            Closed: the service is closed.
        """
        wanted = WANTED.pack(side, most_bytes, content_hash or _NO_HASH)
        return self._service.submit(given, lambda slot: wanted, _parsed)

    def warm(self) -> None:
        """Start the processes that do not run yet, and do not wait for them."""
        self._service.warm()

    def processes(self) -> list[int]:
        """List the ids of the running processes."""
        return self._service.processes()

    def close(self) -> None:
        """End the processes; pictures that are not done fail with Closed. Safe to call twice."""
        self._service.close()
        self._lock.close()

    def __enter__(self) -> ThumbnailService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _parsed(slot: int, answer: bytes) -> bytes:
    if answer[:1] == DRAWN:
        return answer[1:]
    reason, _, detail = answer[1:].decode().partition("\0")
    raise ImageError(detail, reason=reason)
