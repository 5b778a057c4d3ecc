"""Work that waits for requests, written once for threads and for asyncio.

A generator yields the future it needs next, and is sent what that holds, or thrown its error. What drives it
decides how to wait: `run` blocks, `clipdex.aio` awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from clipdex.base.arrays import Array

__all__ = ["Steps", "run", "step_after"]

_T = TypeVar("_T")

Steps = Generator[Future[Array], Array, _T]


def run(steps: Steps[_T]) -> _T:
    """Drive it to its end, blocking -> what it returns."""
    advance: Callable[[], Future[Array]] = partial(next, steps)
    try:
        while True:
            advance = step_after(steps, advance())
    except StopIteration as end:
        result: _T = end.value
        return result
    finally:
        steps.close()  # on Ctrl-C as well: it withdraws what it still waits for


def step_after(steps: Steps[_T], future: Future[Array]) -> Callable[[], Future[Array]]:
    """Wait for the future -> what hands its answer on."""
    try:
        answer = future.result()
    except Exception as exc:
        return partial(steps.throw, exc)
    return partial(steps.send, answer)
