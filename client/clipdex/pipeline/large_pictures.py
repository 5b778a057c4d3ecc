"""Large pictures, one worker at a time: a run takes its workers' memory, and what such a picture needs once.

Workers wait for their turn at a lock on the file that they share. The kernel lets go of it when its holder ends.
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
    """Wait until no other worker has a large picture, and have the memory for one during the block.

    waits, begins: called before the waiting, and after it.

    Raises OSError where the shared file cannot be locked.
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
    """Bytes of memory that this machine has, or the container lets its processes have."""
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUPS:
        with suppress(OSError, ValueError):  # there is none of this version; "max"
            least = min(least, int(Path(path).read_text()))
    return least
