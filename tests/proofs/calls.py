"""Many calls at once through a network that fails: what came back, and when."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import clipdex
from clipdex.wire import FakeTransport

GRACE_S = 1.0  # what a call may take beyond its deadline


@dataclass
class Tally:
    """Of finished calls. late: those that outlived their deadline by GRACE_S. wrong: answers of other pixels."""

    answered: int = 0
    wrong: int = 0
    late: int = 0
    longest_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    last_error: str = ""
    endpoints: Counter[str] = field(default_factory=Counter)
    attempts: int = 0

    def __str__(self) -> str:
        failed = ", ".join(f"{count:,} {name}" for name, count in self.errors.items()) or "0 failed"
        return (
            f"{self.answered:,} answered with {self.attempts:,} attempts, {failed}, {self.wrong} wrong, "
            f"{self.late} late, longest {self.longest_s:.2f} s"
        )


@contextmanager
def calling(
    address: str | list[str],
    *,
    threads: int = 4,
    rows: int = 4,
    timeout_s: float = 20.0,
    attempt_timeout_s: float | None = 0.5,
    pause_s: float = 0.0,
    batch: tuple[np.ndarray, np.ndarray] | None = None,
    **settings: Any,
) -> Iterator[Tally]:
    """Threads that call all the time, as long as the block lasts; then the tally is complete.

    batch: the pixels to send, and what the model makes of them; of the fake, ever new ones, if not given.
    """
    tally, lock, over = Tally(), threading.Lock(), threading.Event()
    fake = FakeTransport()

    def hook(timing: clipdex.RequestTiming) -> None:
        with lock:
            if timing.model.endswith("_image"):
                tally.endpoints[timing.endpoint] += 1
                tally.attempts += timing.attempts

    def call(client: clipdex.Client, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not over.is_set():
            pixels = batch[0] if batch else rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
            began = time.monotonic()
            vectors, name, said = None, "", ""
            try:
                # Answered on gRPC's thread, or in this one, as for `embed_pixels`.
                vectors = client.submit_pixels(pixels, wait=bool(rng.integers(2))).result()
            except clipdex.ClipdexError as exc:
                name, said = type(exc).__name__, str(exc)
            took = time.monotonic() - began
            right = batch[1] if batch else fake.submit("fake_image", {"pixels": pixels}, "embedding", 1).result()
            with lock:
                tally.longest_s = max(tally.longest_s, took)
                tally.late += took > timeout_s + GRACE_S
                if vectors is None:
                    tally.errors[name] += 1
                    tally.last_error = said
                else:
                    tally.answered += 1
                    tally.wrong += vectors.shape != right.shape or not np.allclose(vectors, right, atol=1e-5)
            over.wait(pause_s)

    retry = settings.pop("retry", None) or clipdex.RetryPolicy(attempt_timeout_s=attempt_timeout_s)
    with clipdex.connect(address, timeout_s=timeout_s, retry=retry, on_request=hook, **settings) as client:
        callers = [threading.Thread(target=call, args=(client, seed)) for seed in range(threads)]
        for caller in callers:
            caller.start()
        try:
            yield tally
        finally:
            over.set()
            for caller in callers:
                caller.join()
