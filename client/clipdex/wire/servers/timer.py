"""A thread that runs functions after a delay, started when first needed."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["Timer"]

_LOG = logging.getLogger("clipdex.wire")


class _Entry:
    __slots__ = ("function", "when")

    def __init__(self, when: float, function: Callable[[], None] | None) -> None:
        self.when = when
        self.function = function


class Timer:
    """A thread that runs functions after a delay, one at a time. They must not block."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, _Entry]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(self, delay_s: float, function: Callable[[], None]) -> Callable[[], None]:
        """Run `function` after `delay_s` -> a function that calls it off. After `close`, it is run at once."""
        entry = _Entry(time.monotonic() + delay_s, function)

        def call_off() -> None:
            entry.function = None  # frees what it references; the entry itself is dropped when its time comes

        with self._condition:
            if not self._closed:
                heapq.heappush(self._heap, (entry.when, next(self._numbers), entry))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                    self._thread.start()
                if self._heap[0][2] is entry:
                    self._condition.notify()
                return call_off
        _run(entry)
        return call_off

    def close(self) -> None:
        """Run all pending functions at once, and end the thread. Safe to call twice, and from such a function."""
        with self._condition:
            self._closed = True
            waiting, self._heap = self._heap, []
            self._condition.notify()
        for _, _, entry in waiting:
            _run(entry)

    def _loop(self) -> None:
        while True:
            with self._condition:
                while not self._closed and (not self._heap or self._heap[0][0] > time.monotonic()):
                    self._condition.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                if self._closed:
                    return
                entry = heapq.heappop(self._heap)[2]
            _run(entry)


def _run(entry: _Entry) -> None:
    function, entry.function = entry.function, None
    if function is not None:
        try:
            function()
        except Exception:  # the thread serves all requests, so no single failure may end it
            _LOG.exception("a delayed step of a request failed")
