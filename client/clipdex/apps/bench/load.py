"""A steady load: a fixed number of requests in flight, and their latency."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument

__all__ = ["Latency", "Load", "Window", "run_load"]


@dataclass(frozen=True)
class Window:
    """The length of a measurement: `seconds`, and until `requests` have been answered, after a warm-up.

    most_seconds: after this the window ends even with fewer requests, if there was at least one.
    """

    seconds: float = 5.0
    requests: int = 10
    warmup_seconds: float = 1.0
    most_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not self.seconds > 0 or not self.most_seconds >= self.seconds or not self.warmup_seconds >= 0:
            raise InvalidArgument(
                f"the window is {self.seconds} s after {self.warmup_seconds} s of warm-up, at most "
                f"{self.most_seconds} s; expected 0 < seconds <= maximum, and a warm-up of 0 or more"
            )
        if self.requests < 1:
            raise InvalidArgument(f"the window asks for {self.requests} requests; expected at least 1")


@dataclass(frozen=True)
class Latency:
    """Latency from submitting a request to its answer, in milliseconds."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """Summarise latencies in seconds, at least one."""
        values = np.array(seconds) * 1e3
        p50, p90, p99 = np.percentile(values, (50, 90, 99))
        return cls(float(values.mean()), float(p50), float(p90), float(p99))


@dataclass(frozen=True)
class Load:
    """The result of one window: its length in seconds, the requests answered in it, their latency."""

    seconds: float
    requests: int
    latency: Latency

    @property
    def requests_per_s(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


def run_load(
    submit: Callable[[int], Future[Array]],
    concurrency: int,
    window: Window,
    *,
    checked: Callable[[Array], object] = lambda answer: None,
    opened: Callable[[], object] = lambda: None,
    closed: Callable[[], object] = lambda: None,
) -> Load:
    """Keep `concurrency` requests in flight, and measure a window once the load is steady.

    No thread is started: each answer is followed by the next request.

    Args:
        submit: sends request number n and returns at once.
        checked: raises an error for a wrong answer.
        opened, closed: called when the window begins and ends, while the load is still on.

    Raises:
        Whatever a request, or `checked`, raised; the other requests are cancelled.
    """
    answers: SimpleQueue[tuple[Future[Array], float, float]] = SimpleQueue()
    flying: set[Future[Array]] = set()
    sent = 0

    def send() -> None:
        nonlocal sent
        began = time.perf_counter()
        answer = submit(sent)
        sent += 1
        flying.add(answer)
        answer.add_done_callback(lambda done: answers.put((done, began, time.perf_counter())))

    def receive() -> tuple[float, float]:
        answer, began, ended = answers.get()
        flying.discard(answer)
        checked(answer.result())
        return began, ended

    try:
        for _ in range(concurrency):
            send()
        warm = time.perf_counter() + window.warmup_seconds
        while time.perf_counter() < warm or sent == concurrency:  # at least until the first answer
            receive()
            send()
        opened()
        start = last = time.perf_counter()
        latencies: list[float] = []
        while last - start < window.seconds or len(latencies) < window.requests:
            if latencies and last - start >= window.most_seconds:
                break
            began, ended = receive()
            if ended > start:  # else it was answered while `opened` queried the server
                latencies.append(ended - began)
                last = ended
            send()
        closed()
        while flying:
            receive()
    finally:
        for answer in flying:
            answer.cancel()
    return Load(last - start, len(latencies), Latency.of(latencies))
