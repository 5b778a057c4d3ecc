"""Ctrl-C, or SIGTERM, during a commit waits until the commit is over."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["interrupts_wait"]


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM while the block runs, and deliver the first behind.

    Raised inside SQLite's calls into Python, a KeyboardInterrupt would come out as an error of the database.
    Python delivers signals to its main thread alone, so there is nothing to hold back in others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    before: dict[int, Callable[[int, FrameType | None], Any]] = {}
    for kind in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(kind)
        if callable(handler):  # not ignored, nor the system's default, and Python's to give back
            before[kind] = handler
            signal.signal(kind, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        for each, restored in before.items():
            signal.signal(each, restored)
        if held:
            number, frame = held[0]
            before[number](number, frame)
