"""The record of a finished request, as passed to the `on_request` hook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["RequestHook", "RequestTiming"]


@dataclass(frozen=True)
class RequestTiming:
    """One finished request, with all its attempts.

    model: Triton's name of the model, such as `demo_image`. rows: pictures or texts in the request.
    sent_bytes: bytes sent over the network in all attempts, without those in shared memory.
    endpoint: the address that gave the answer or the last error; "" if the request was never sent.
    attempts: how often it was sent.
    seconds: from submission to the answer. attempt_seconds: of the last attempt, including the server's queue.
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
