"""Local features found by killable processes, with a run's limits."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future
from dataclasses import asdict
from types import TracebackType

from clipdex.base.errors import ImageError
from clipdex.base.limits import Limits
from clipdex.looks.local_features import LocalFeatures, Recipe, opencv
from clipdex.pipeline.feature_worker import FOUND, wanted
from clipdex.pipeline.large_pictures import machine_memory
from clipdex.pipeline.worker_process import WorkerProcess
from clipdex.pipeline.worker_service import ADVICE, Given, WorkerService
from clipdex.wire.shared_memory import SharedMemory

__all__ = ["FeatureService"]


class FeatureService:
    """Up to `workers` processes that find local features, started when needed. Safe between threads; close it."""

    def __init__(
        self, *, workers: int, limits: Limits | None = None, waiting: int = 128, idle_s: float = 30.0
    ) -> None:
        """waiting: pictures that may wait. idle_s: seconds after which a process without work ends.

        Raises:
            InvalidArgument: workers is less than 1.
            MissingExtra: OpenCV is not installed.
        """
        opencv()  # that it is missing should be said here, and once
        bounds = (limits or Limits()).within(machine_memory())

        def start() -> WorkerProcess:
            rules = [json.dumps(asdict(bounds))]
            memory = os.dup(self._lock.descriptor)
            return WorkerProcess.start("clipdex.pipeline.feature_worker", memory, rules, advice=ADVICE)

        self._service = WorkerService(start, workers=workers, limits=bounds, waiting=waiting, idle_s=idle_s)
        self._lock = SharedMemory(1, named=False)  # what they lock to take turns at large pictures

    def extract(
        self,
        given: Given,
        recipe: Recipe,
        *,
        content_hash: bytes | None = None,
        size: tuple[int, int] | None = None,
    ) -> Future[LocalFeatures]:
        """Queue a picture -> a future of its local features.

        content_hash: that the file must have, 16 bytes. size: its width and height as shown, if they are known:
        then a large JPEG is not decoded in full.

        The future raises ImageError if it cannot be decoded; `reason` is "changed" if the hash is another.

        Raises:
            ServerBusy: too many pictures wait already.
            Closed: the service is closed.
        """
        asked = wanted(recipe, content_hash, size)

        def parsed(slot: int, answer: bytes) -> LocalFeatures:
            if answer[:1] == FOUND:
                return LocalFeatures.from_bytes(answer[1:], recipe.width)
            reason, _, detail = answer[1:].decode().partition("\0")
            raise ImageError(detail, reason=reason)

        return self._service.submit(given, lambda slot: asked, parsed)

    @property
    def workers(self) -> int:
        """The most processes that run at once."""
        return self._service.workers

    def processes(self) -> list[int]:
        """List the ids of the running processes."""
        return self._service.processes()

    def close(self) -> None:
        """End the processes; pictures that are not done fail with Closed. Safe to call twice."""
        self._service.close()
        self._lock.close()

    def __enter__(self) -> FeatureService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
