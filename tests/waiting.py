"""Waiting for something that another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["wait_until"]


def wait_until(reached: Callable[[], object], most_s: float = 60.0) -> None:
    """Wait until a function returns something true, however long the machine takes, up to most_s seconds."""
    ends = time.monotonic() + most_s
    while not reached():
        assert time.monotonic() < ends, f"it was not reached in {most_s:g} s"
        time.sleep(0.005)
