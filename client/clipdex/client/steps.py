"""Work that waits for requests, as generators: written once, driven by threads or by asyncio.

A generator yields the future it needs next, and is sent that future's result, or thrown its error. Its driver
decides how to wait: `run` blocks, `clipdex.aio` awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from clipdex.base.arrays import Array
from clipdex.base.errors import RequestRefused

__all__ = ["Steps", "bisect", "bisection", "run", "step_after"]

_T = TypeVar("_T")

Steps = Generator[Future[Array], Array, _T]


def run(steps: Steps[_T]) -> _T:
    """Drive steps to their end, blocking -> their return value."""
    advance: Callable[[], Future[Array]] = partial(next, steps)
    try:
        while True:
            advance = step_after(steps, advance())
    except StopIteration as end:
        result: _T = end.value
        return result
    finally:
        steps.close()  # withdraws pending requests, on Ctrl-C too


def step_after(steps: Steps[_T], future: Future[Array]) -> Callable[[], Future[Array]]:
    """Wait for the future -> a call that passes its result or error to the steps."""
    try:
        answer = future.result()
    except Exception as exc:
        return partial(steps.throw, exc)
    return partial(steps.send, answer)


def bisect(
    batch: Array,
    submit: Callable[[Array], Future[Array]],
    refusal: RequestRefused,
    checked: Callable[[Array, int], Array],
) -> list[Array | RequestRefused]:
    """Send a refused batch again in halves -> each row's answer, or its own refusal.

    A request that merely exceeded a size limit on the way passes in halves. One bad row among B costs about
    2·log2(B) requests.

    Args:
        batch: (B, …). submit: sends some of its rows -> a future of as many answers.
        refusal: the error for the whole batch.
        checked: validates an answer for a number of rows, as `Client.checked` does.

    Raises:
        ClipdexError: an error other than a refusal.
    """
    return run(bisection(batch, submit, refusal, checked))


def bisection(
    batch: Array,
    submit: Callable[[Array], Future[Array]],
    refusal: RequestRefused,
    checked: Callable[[Array, int], Array],
) -> Steps[list[Array | RequestRefused]]:
    """The steps of `bisect`."""
    if len(batch) == 1:
        return [refusal]
    middle = len(batch) // 2
    halves = [(half, submit(half)) for half in (batch[:middle], batch[middle:])]
    found: list[Array | RequestRefused] = []
    try:
        for half, future in halves:
            try:
                answers = yield future
            except RequestRefused as exc:
                found += yield from bisection(half, submit, exc, checked)
            else:
                found += list(checked(answers, len(half)))
    finally:
        for _, future in halves:
            future.cancel()  # no effect if it is done
    return found
