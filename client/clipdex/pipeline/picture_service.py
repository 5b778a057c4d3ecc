"""What services have in common whose killable processes make one thing of each picture, with a run's limits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from types import TracebackType
from typing import Self, TypeVar

from clipdex.base.limits import Limits
from clipdex.pipeline.large_pictures import machine_memory
from clipdex.pipeline.picture_worker import NO_HASH, made_of
from clipdex.pipeline.worker_process import WorkerProcess
from clipdex.pipeline.worker_service import ADVICE, Given, WorkerService
from clipdex.wire.shared_memory import SharedMemory

__all__ = ["PictureService"]

_T = TypeVar("_T")


class PictureService:
    """Up to `workers` processes of one kind, started when needed. Safe between threads; close it."""

    def __init__(
        self, module: str, *, workers: int, limits: Limits | None, waiting: int = 128, idle_s: float = 30.0
    ) -> None:
        """module: its `main` is the process. waiting: pictures that may wait.

        idle_s: seconds after which a process without work ends.

        Raises:
            InvalidArgument: workers is less than 1.
        """
        bounds = (limits or Limits()).within(machine_memory())

        def start() -> WorkerProcess:
            memory = os.dup(self._lock.descriptor)
            return WorkerProcess.start(module, memory, [json.dumps(asdict(bounds))], advice=ADVICE)

        self._service = WorkerService(start, workers=workers, limits=bounds, waiting=waiting, idle_s=idle_s)
        self._lock = SharedMemory(1, named=False)  # what they lock to take turns at large pictures

    @property
    def workers(self) -> int:
        """The most processes that run at once."""
        return self._service.workers

    def _ask(
        self, given: Given, wanted: bytes, content_hash: bytes | None, parse: Callable[[bytes], _T]
    ) -> Future[_T]:
        """Queue a picture -> a future of what is made of it; see `WorkerService.submit`.

        wanted: the worker's own fields. parse: turns what it made into the result.
        """
        asked = (content_hash or NO_HASH) + wanted
        return self._service.submit(given, lambda slot: asked, lambda slot, answer: parse(made_of(answer)))

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
