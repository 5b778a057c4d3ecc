"""Handling Ctrl-C and SIGTERM: delayed where they would do harm, as during a commit, and never lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["interrupts_noted", "interrupts_wait"]

_KINDS = (signal.SIGINT, signal.SIGTERM)
_Handler = Callable[[int, "FrameType | None"], Any]


@contextmanager
def interrupts_noted() -> Iterator[Callable[[], None]]:
    """Yield a function to call now and then, which raises interrupts that were lost.

    A handler runs wherever the main thread is: if that is a callback of gRPC or SQLite, or a `__del__`, the
    exception is printed or dropped there, and the block would continue as if nothing had happened.
    """
    came: list[tuple[int, FrameType | None]] = []
    before: dict[int, _Handler] = {}

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))
        before[number](number, frame)

    def again() -> None:
        while came:
            number, frame = came.pop()
            before[number](number, frame)

    with _handled(note, before):
        yield again


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM while the block runs, and deliver the first afterwards.

    Raised inside SQLite's calls into Python, a KeyboardInterrupt would become an error of the database.
    Python delivers signals to its main thread alone, so there is nothing to hold back in others.
    """
    held: list[tuple[int, FrameType | None]] = []
    before: dict[int, _Handler] = {}
    try:
        with _handled(lambda number, frame: held.append((number, frame)), before):
            yield
    finally:
        if held:
            number, frame = held[0]
            before[number](number, frame)


@contextmanager
def _handled(handler: _Handler, before: dict[int, _Handler]) -> Iterator[None]:
    """In the main thread, install a handler while the block runs. before: filled with the previous handlers."""
    if threading.current_thread() is threading.main_thread():
        for kind in _KINDS:
            found = signal.getsignal(kind)
            if callable(found):  # not ignored, nor the system's default, and restorable from Python
                before[kind] = found
                signal.signal(kind, handler)
    try:
        yield
    finally:
        for number, restored in before.items():
            signal.signal(number, restored)
