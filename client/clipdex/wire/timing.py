"""What a hook is told of each finished request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["RequestHook", "RequestTiming"]


@dataclass(frozen=True)
class RequestTiming:
    """One finished request, with all its attempts.

    model: Triton's name of it, such as `demo_image`. rows: pictures or texts in it.
    sent_bytes: what was carried over the network, all attempts together; memory that the server shares is not.
    endpoint: the address that gave the answer, or the last error; "" if it was never sent.
    attempts: how often it was sent.
    seconds: from submit to the answer. attempt_seconds: of the last attempt alone, the server's queue included.
    outcome: "ok", or the name of the error.
    """

    model: str
    rows: int
    sent_bytes: int
    endpoint: str
    attempts: int
    seconds: float
    attempt_seconds: float
    outcome: str


RequestHook = Callable[[RequestTiming], object]
