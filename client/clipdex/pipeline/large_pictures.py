"""Large pictures, decoded by one worker at a time, so that a run needs the memory for only one of them.

Workers wait for a lock on the file that they share. The kernel releases it when its holder ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipdex.base.limits import Limits

__all__ = ["machine_memory", "turn"]

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@contextmanager
def turn(descriptor: int, limits: Limits, waits: Callable[[], None], begins: Callable[[], None]) -> Iterator[None]:
    """Wait until no other worker has a large picture, and allow the memory for one during the block.

    waits, begins: called before and after the wait.

    Raises OSError if the shared file cannot be locked.
    """
    waits()
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
    try:
        begins()
        limits.apply_to_this_process(large=True)
        yield
    finally:
        limits.apply_to_this_process()
        fcntl.lockf(descriptor, fcntl.LOCK_UN)


def machine_memory() -> int:
    """Return the bytes of memory of this machine, or the limit of the container."""
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUPS:
        with suppress(OSError, ValueError):  # another cgroup version; or "max"
            least = min(least, int(Path(path).read_text()))
    return least
