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
from clipdex.base.errors import RequestRefused

__all__ = ["Steps", "bisect", "bisection", "run", "step_after"]

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


def bisect(
    batch: Array,
    submit: Callable[[Array], Future[Array]],
    refusal: RequestRefused,
    checked: Callable[[Array, int], Array],
) -> list[Array | RequestRefused]:
    """What becomes of each row of a refused batch: its answer, or why it alone is refused.

    A request that was only too long for a limit on the way passes in halves. One bad row among B costs about
    2·log2(B) requests.

    Args:
        batch: (B, …). submit: sends some rows of it -> a future of as many answers.
        refusal: what the whole batch was refused with.
        checked: an answer and the rows it is for -> the answer, or an error: `Client.checked`.

    Raises:
        ClipdexError: another error than a refusal.
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
            future.cancel()  # harmless where it is over
    return found
