"""Items in blocks, for what costs less for many at once than for each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["blocks"]

_T = TypeVar("_T")


def blocks(items: Iterable[_T], most: int, within_s: float) -> Iterator[list[_T]]:
    """Yield items in lists of at most `most`, in their order.

    The first list has one item; each is up to twice as long as the one before, or has one item again if that took
    longer than `within_s` seconds to fill: an item does not wait for others that come slowly.
    """
    block: list[_T] = []
    size, began = 1, time.monotonic()
    for item in items:
        block.append(item)
        late = time.monotonic() - began > within_s
        if late or len(block) >= size:
            yield block
            block = []
            size, began = 1 if late else min(2 * size, most), time.monotonic()
    if block:
        yield block
