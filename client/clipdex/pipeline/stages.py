"""Where a run's time goes: seconds that each stage was busy, or waited for another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["STAGES", "StageTimes"]

_T = TypeVar("_T")

# scan: listing files and asking the index what it knows of them, in the decoders' feeding thread.
# decode, resize: the workers' work, all together; decode includes reading the file.
# wait_decode, wait_embed: the joining thread has nothing to do until pixels, or vectors, arrive.
# place, submit, append, commit: the joining thread's own work.
STAGES = ("scan", "decode", "resize", "wait_decode", "place", "submit", "wait_embed", "append", "commit")


class StageTimes:
    """Seconds by stage. Each stage belongs to one thread."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Count the block's time to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - began

    def each(self, stage: str, items: Iterator[_T]) -> Iterator[_T]:
        """Pass items on, counting the time until each comes to a stage."""
        while True:
            began = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds[stage] += time.perf_counter() - began
            yield item
