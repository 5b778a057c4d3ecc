"""When a failed request is sent again: the rules, without the sending."""

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

__all__ = ["Failure", "RetryPolicy", "failure_of"]

_SHORTEST_ATTEMPT_S = 20.0
_SLOWEST_TIMES = 8.0
_FIRST_ATTEMPT_S = 120.0  # nothing is known of the server yet, and it may have to warm up


class Failure(Enum):
    """What a failed attempt says about server and request."""

    BUSY = "busy"  # the server is well and its queue full
    SICK = "sick"  # nobody answers
    LATE = "late"  # no answer within the attempt's time
    FAULT = "fault"  # the server broke; it may be the request's doing
    MISSING = "missing"  # the model is not there
    FINAL = "final"  # sending it again will not help


_FAILURES: tuple[tuple[type[Exception], Failure], ...] = (
    (ServerBusy, Failure.BUSY),  # before ServerUnreachable, of which it is a kind
    (ServerUnreachable, Failure.SICK),
    (DeadlineExceeded, Failure.LATE),
    (ServerFault, Failure.FAULT),
    (Cancelled, Failure.FAULT),  # by the other side, or something on the way: what the caller withdrew is over
    (ModelNotFound, Failure.MISSING),
)


def failure_of(error: BaseException) -> Failure:
    """The kind of failure that an error means."""
    return next((failure for kind, failure in _FAILURES if isinstance(error, kind)), Failure.FINAL)


@dataclass(frozen=True)
class RetryPolicy:
    """How a request is tried again until its deadline. Times are in seconds.

    max_attempts: how often it is sent in all; None for as often as the deadline allows, 1 for never again.
    attempt_timeout_s: how long one attempt may take. None: 120 s until the server has answered such a request
        once, then 8 times its slowest answer lately, 20 s at least; twice as long after each that was too short.
    backoff_s, max_backoff_s: the wait before the n-th new attempt is drawn evenly between 0 and
        backoff_s · 2ⁿ⁻¹, and max_backoff_s at most. There is no wait where another endpoint can take it.
    fault_attempts: how often a request is sent in all to servers that break over it.
    not_found_s: how long a model may be missing that was there when the client connected.
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
        """How long to wait after so many waits of the same request."""
        most = min(self.max_backoff_s, self.backoff_s * 2.0 ** min(waits, 32))
        return random.uniform(0.0, most)

    def attempt_s(self, left_s: float, slowest_s: float | None, late: int) -> float:
        """What the next attempt may take: of the time left, after so many that took too long.

        slowest_s: the slowest answer lately, None if there was none.
        """
        if self.attempt_timeout_s is not None:
            return min(left_s, self.attempt_timeout_s)
        first_s = _FIRST_ATTEMPT_S if slowest_s is None else max(_SHORTEST_ATTEMPT_S, _SLOWEST_TIMES * slowest_s)
        return min(left_s, first_s * 2.0 ** min(late, 32))
