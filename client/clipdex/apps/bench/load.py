"""A steady load: a fixed number of requests in flight, and what becomes of them."""

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
    """How long to measure: `seconds`, and until `requests` have been answered; before that, to warm up.

    most_seconds: past this the window ends although there are not enough requests, if there was one at all.
    """

    seconds: float = 5.0
    requests: int = 10
    warmup_seconds: float = 1.0
    most_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not self.seconds > 0 or not self.most_seconds >= self.seconds or not self.warmup_seconds >= 0:
            raise InvalidArgument(
                f"the window is {self.seconds} s after {self.warmup_seconds} s, {self.most_seconds} s at most; "
                "expected a positive number of seconds, no more than the most, after none or more"
            )
        if self.requests < 1:
            raise InvalidArgument(f"the window asks for {self.requests} requests; expected at least 1")


@dataclass(frozen=True)
class Latency:
    """From submitting a request to its answer, in milliseconds."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """Of some latencies in seconds, at least one."""
        values = np.array(seconds) * 1e3
        p50, p90, p99 = np.percentile(values, (50, 90, 99))
        return cls(float(values.mean()), float(p50), float(p90), float(p99))


@dataclass(frozen=True)
class Load:
    """What one window saw: its length in seconds, the requests answered in it, their latency."""

    seconds: float
    requests: int
    latency: Latency

    @property
    def requests_per_s(self) -> float:
        """Answers a second."""
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
    """Keep `concurrency` requests in flight; measure a window once it has been so for a while.

    No thread is started: each answer is followed by the next request.

    Args:
        submit: sends request number n and returns at once.
        checked: raises an error over an answer that is not what was asked for.
        opened, closed: called when the window begins and ends, the load still on.

    Raises:
        Whatever a request, or `checked`, raised; the others are withdrawn.
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
            if ended > start:  # else it was answered while `opened` looked at the server
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
