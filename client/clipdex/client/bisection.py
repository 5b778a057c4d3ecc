"""A batch that a server refuses, halved until the rows at fault stand alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from clipdex.base.arrays import Array
from clipdex.base.errors import RequestRefused
from clipdex.client.steps import Steps, run

__all__ = ["bisect", "bisection"]


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
