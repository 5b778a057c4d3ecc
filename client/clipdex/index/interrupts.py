"""Ctrl-C during a commit waits until the commit is over."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interrupts_wait"]


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold back SIGINT while the block runs, and deliver it behind.

    Raised inside SQLite's calls into Python, a KeyboardInterrupt would come out as an error of the database.
    Python delivers signals to its main thread alone, so there is nothing to hold back in others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # ignored, the system's default, or not Python's to give back
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held:
            before(*held[0])
