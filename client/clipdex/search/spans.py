"""Cutting the rows of a search into spans, and working on them with all cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from clipdex.base.cpus import usable_cpus

__all__ = ["Span", "cores", "even_spans_of", "spans_of", "work_through"]


@dataclass(frozen=True)
class Span:
    """Rows [first, end), or only those in `chosen`, ascending, all within that range."""

    first: int
    end: int
    chosen: npt.NDArray[np.int64] | None = None

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The rows, int64."""
        return np.arange(self.first, self.end) if self.chosen is None else self.chosen

    def places(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Find those of some rows, ascending, that are in the span -> their places in it."""
        if len(rows) == 0:
            return rows
        rows = rows[np.searchsorted(rows, self.first) : np.searchsorted(rows, self.end)]
        if self.chosen is None:
            return rows - self.first
        at = np.searchsorted(self.chosen, rows)
        there: npt.NDArray[np.int64] = at[self.chosen[np.minimum(at, len(self.chosen) - 1)] == rows]
        return there

    def __len__(self) -> int:
        return self.end - self.first if self.chosen is None else len(self.chosen)


def spans_of(
    first: int, end: int, step: int, grid: int, chosen: npt.NDArray[np.int64] | None = None
) -> Iterator[Span]:
    """Cut rows [first, end) into spans of at most `step` rows, none of which crosses a multiple of `grid`."""
    if chosen is None:
        while first < end:
            stop = min(end, first + step, (first // grid + 1) * grid)
            yield Span(first, stop)
            first = stop
        return
    at, last = (int(i) for i in np.searchsorted(chosen, (first, end)))
    while at < last:
        border = (int(chosen[at]) // grid + 1) * grid
        stop = min(last, at + step, int(np.searchsorted(chosen, border)))
        yield Span(int(chosen[at]), int(chosen[stop - 1]) + 1, chosen[at:stop])
        at = stop


def even_spans_of(first: int, end: int, step: int, grid: int, count: int, least: int) -> Iterator[Span]:
    """Cut rows [first, end) into about `count` spans; those between two multiples of `grid` have one length.

    None is longer than `step` rows; none crosses a multiple of `grid`, or is cut to less than `least`.
    """
    pieces = max(1, (end - 1) // grid - first // grid + 1)
    while first < end:
        stop = min(end, (first // grid + 1) * grid)
        length = stop - first
        parts = max(-(-length // step), min(-(-count // pieces), -(-length // least)))
        borders = [first + length * i // parts for i in range(parts + 1)]
        yield from (Span(a, b) for a, b in pairwise(borders))
        first = stop


def cores() -> int:
    """Return the number of cores this process may use."""
    return usable_cpus()


_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """Drop the pool in a forked child: the threads stay with the parent."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


def work_through(spans: Iterable[Span], work: Callable[[Span], None], threads: int) -> None:
    """Call `work` with every span, in order, on `threads` threads, including this one; NumPy's warnings are off.

    The first exception ends the work and is raised here.
    """
    global _pool
    waiting = iter(spans)
    if threads <= 1:
        with np.errstate(all="ignore"):
            for span in waiting:
                work(span)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(max(1, cores() - 1), thread_name_prefix="clipdex-search")
    lock, failed = threading.Lock(), False

    def take() -> None:
        nonlocal failed
        try:
            with np.errstate(all="ignore"):
                while not failed:
                    with lock:
                        span = next(waiting, None)
                    if span is None:
                        return
                    work(span)
        except BaseException:
            failed = True
            raise

    helpers = [_pool.submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        for helper in helpers:
            # A helper that has not started, because another search uses its thread, is no longer needed.
            if not helper.cancel():
                helper.exception()
    for helper in helpers:
        if not helper.cancelled():
            helper.result()
