"""One server of several: how busy it is, how fast, and whether it is well."""

from __future__ import annotations

import time
from collections import deque

from clipdex.wire.shared_memory import SharedMemory
from clipdex.wire.transport import Transport

__all__ = ["Endpoint"]

_ANSWERS_KEPT = 64
_WELL_AFTER_S = 10.0


class Endpoint:
    """What the fleet knows of one server. The fleet's lock guards it.

    in_flight: requests under way. lately: requests sent to it, those long past counting less.
    sick: it gets no requests until a probe has found it well. error: why.
    ejections: how often in short succession it was found sick.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.address = transport.address
        self.in_flight = 0
        self.lately = 0.0
        self.sick = False
        self.error: Exception | None = None
        self.ejections = 0
        self.faults = 0
        self.shared: list[SharedMemory] = []
        self._well_since = 0.0
        self._heard = 0.0
        self._answers: dict[str, deque[float]] = {}

    def slowest_s(self, model: str) -> float | None:
        """The slowest of the last answers for a model; None before the first."""
        answers = self._answers.get(model)
        return max(answers) if answers else None

    def answered(self, model: str, seconds: float) -> None:
        """It has answered a request."""
        self.faults = 0
        self._heard = time.monotonic()
        if self.ejections and time.monotonic() - self._well_since > _WELL_AFTER_S:
            self.ejections = 0
        self._answers.setdefault(model, deque(maxlen=_ANSWERS_KEPT)).append(seconds)

    def heard_since(self, moment: float) -> bool:
        """Whether it has answered any request since then (monotonic)."""
        return self._heard > moment

    def eject(self, error: Exception) -> None:
        """It is found sick."""
        self.sick, self.error = True, error
        self.ejections += 1

    def come_back(self, lately: float) -> None:
        """A probe has found it well. lately: what it shall count as having been sent."""
        self.lately = lately
        self.sick, self.error, self.faults = False, None, 0
        self._well_since = time.monotonic()
