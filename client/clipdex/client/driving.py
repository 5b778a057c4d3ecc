"""Driving steps from asyncio: each step runs in a thread, and its future is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from clipdex.base.arrays import Array
from clipdex.client.steps import Steps, step_after

__all__ = ["drive"]

_T = TypeVar("_T")


async def drive(steps: Steps[_T], threads: Executor, require_open: Callable[[], None]) -> _T:
    """Drive steps as `steps.run` does, but run each in one of the threads and await its future.

    require_open: raises if another task has closed what the steps use.
    """
    advance: Callable[[], Future[Array]] = partial(next, steps)
    step: asyncio.Future[Future[Array] | _End[_T]] | None = None
    try:
        while True:
            require_open()
            step = asyncio.get_running_loop().run_in_executor(threads, _next, advance)
            outcome = await asyncio.shield(step)
            if isinstance(outcome, _End):
                return outcome.value
            with suppress(Exception):  # `step_after` passes it on
                await asyncio.wrap_future(outcome)
            advance = step_after(steps, outcome)
    finally:
        # After a cancelled task, its step still runs in its thread, and can be closed only when that ends.
        if step is not None and not step.done():
            step.add_done_callback(lambda _: steps.close())
        else:
            steps.close()


@dataclass(frozen=True)
class _End(Generic[_T]):
    """The return value of finished steps: StopIteration cannot pass through a future."""

    value: _T


def _next(advance: Callable[[], Future[Array]]) -> Future[Array] | _End[Any]:
    try:
        return advance()
    except StopIteration as end:
        return _End(end.value)
