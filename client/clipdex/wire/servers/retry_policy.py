"""The rules for retrying failed requests."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

from clipdex.base.arguments import is_number
from clipdex.base.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ModelNotFound,
    ServerBusy,
    ServerFault,
    ServerUnreachable,
)

__all__ = ["FailureKind", "RetryPolicy", "failure_kind"]

_SHORTEST_ATTEMPT_S = 20.0
_SLOWEST_TIMES = 8.0
_FIRST_ATTEMPT_S = 120.0  # the server's speed is not known yet, and it may have to warm up


class FailureKind(Enum):
    """The kind of a failed attempt, which decides about the retry."""

    BUSY = "busy"  # the server is healthy, but its queue is full
    SICK = "sick"  # nothing answers
    LATE = "late"  # no answer within the attempt's timeout
    FAULT = "fault"  # the server failed; the request may be the cause
    MISSING = "missing"  # the model is not there
    FINAL = "final"  # retrying will not help


_FAILURES: tuple[tuple[type[Exception], FailureKind], ...] = (
    (ServerBusy, FailureKind.BUSY),  # before ServerUnreachable, its base class
    (ServerUnreachable, FailureKind.SICK),
    (DeadlineExceeded, FailureKind.LATE),
    (ServerFault, FailureKind.FAULT),
    (
        Cancelled,
        FailureKind.FAULT,
    ),  # by the server or something in between; if by the caller, the request has ended
    (ModelNotFound, FailureKind.MISSING),
)


def failure_kind(error: BaseException) -> FailureKind:
    """Return the kind of failure that an error stands for."""
    return next((failure for kind, failure in _FAILURES if isinstance(error, kind)), FailureKind.FINAL)


@dataclass(frozen=True)
class RetryPolicy:
    """Settings for retrying a request until its deadline. Times are in seconds.

    max_attempts: the most attempts, including the first; None for as many as the deadline allows, 1 for no retry.
    attempt_timeout_s: timeout of one attempt. None: 120 s until the server has answered a request to the model,
        then 8 times its slowest recent answer, at least 20 s; doubled after each attempt that timed out.
    backoff_s, max_backoff_s: the wait before the n-th retry is drawn uniformly from 0 to backoff_s · 2ⁿ⁻¹,
        capped at max_backoff_s. There is no wait if another endpoint is healthy.
    fault_attempts: the most attempts at a request over which servers fail.
    not_found_s: seconds to keep trying if a model is missing that was there when the client connected.
    """

    max_attempts: int | None = None
    attempt_timeout_s: float | None = None
    backoff_s: float = 0.1
    max_backoff_s: float = 2.0
    fault_attempts: int = 3
    not_found_s: float = 15.0

    def __post_init__(self) -> None:
        for name in ("max_attempts", "attempt_timeout_s", "backoff_s", "max_backoff_s", "fault_attempts"):
            value = getattr(self, name)
            may_be_none = name in ("max_attempts", "attempt_timeout_s")
            if not (may_be_none and value is None) and not (is_number(value) and value > 0):
                raise InvalidArgument(f"{name} of a RetryPolicy is {value!r}; expected a positive number")
        if not is_number(self.not_found_s) or not self.not_found_s >= 0:
            raise InvalidArgument(
                f"not_found_s of a RetryPolicy is {self.not_found_s!r}; expected 0 or more seconds"
            )

    def wait_s(self, waits: int) -> float:
        """Draw the seconds to wait before a retry, after `waits` earlier waits of the same request."""
        most = min(self.max_backoff_s, self.backoff_s * 2.0 ** min(waits, 32))
        return random.uniform(0.0, most)

    def attempt_s(self, left_s: float, slowest_s: float | None, late: int) -> float:
        """Return the timeout of the next attempt, out of the time left, after `late` attempts that timed out.

        slowest_s: the slowest recent answer, None if there was none.
        """
        if self.attempt_timeout_s is not None:
            return min(left_s, self.attempt_timeout_s)
        first_s = _FIRST_ATTEMPT_S if slowest_s is None else max(_SHORTEST_ATTEMPT_S, _SLOWEST_TIMES * slowest_s)
        return min(left_s, first_s * 2.0 ** min(late, 32))
