"""One request with all its attempts, until it is answered or its time is up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from functools import partial

from clipdex.base.arrays import Array
from clipdex.base.counting import counted
from clipdex.base.errors import Cancelled, ClipdexError, Closed, FingerprintMismatch
from clipdex.wire.servers.fleet import Endpoint, Fleet
from clipdex.wire.servers.retry_policy import FailureKind, RetryPolicy, failure_kind
from clipdex.wire.servers.timer import Timer

__all__ = ["Call", "RequestHook", "RequestTiming"]

_LOG = logging.getLogger("clipdex.wire")

_SHORTEST_S = 0.005  # with less time left, no attempt is worthwhile


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


class Call(Future[Array]):
    """A future of the answer to one request, which is retried until it succeeds or its time is up.

    Attempts follow one another; there are never two at once. Cancelling the future ends it with `Cancelled`.
    """

    def __init__(
        self,
        fleet: Fleet,
        timer: Timer,
        policy: RetryPolicy,
        hook: RequestHook | None,
        model: str,
        inputs: Mapping[str, Array],
        output: str,
        timeout_s: float,
    ) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()
        self._fleet, self._timer, self._policy, self._hook = fleet, timer, policy, hook
        self._model, self._output = model, output
        self._inputs: Mapping[str, Array] = inputs
        self._rows = max((len(array) for array in inputs.values()), default=0)
        self._timeout_s = timeout_s
        self._began = time.monotonic()
        self._deadline = self._give_up_at = self._began + timeout_s
        self._lock = threading.Lock()
        self._over = False
        self._answer: Future[Array] | None = None  # of the current attempt
        self._call_off = _nothing  # ends the current wait
        self._tried: list[Endpoint] = []  # since the last wait
        self._error: Exception | None = None  # the latest
        self._missing_since: float | None = None
        self._attempts = self._waits = self._late = self._faults = self._sent_bytes = 0
        self._endpoint = ""
        self._attempt_began = self._began

    def send(self, *, wait: bool = False) -> None:
        """Make an attempt, or wait for a healthy endpoint. wait: whether this attempt may block."""
        self._call_off()
        if self._over:
            return
        left = self._give_up_at - time.monotonic()
        if self._fleet.closed.is_set() or self._fleet.is_hopeless() or (left < _SHORTEST_S and self._error):
            self._give_up()
            return
        endpoint = self._fleet.take(self._tried)
        if endpoint is None:
            self._call_off = self._timer.after(left, self._give_up)
            self._fleet.park(self.send)
            return
        self._attempts += 1
        self._endpoint = endpoint.address
        slowest = self._fleet.slowest_s(endpoint, self._model)
        attempt_s = self._policy.attempt_s(max(left, 0.0), slowest, self._late)
        began = self._attempt_began = time.monotonic()
        try:
            answer = endpoint.transport.submit(self._model, self._inputs, self._output, attempt_s, wait=wait)
        except BaseException as exc:
            self._fleet.give_back(endpoint)
            self._settle(endpoint, began, None, exc)
            return
        self._sent_bytes += getattr(answer, "sent_bytes", 0)
        self._answer = answer
        answer.add_done_callback(partial(self._answered, endpoint, began))
        if self._over:  # cancelled meanwhile
            answer.cancel()

    def cancel(self) -> bool:
        """Withdraw the request; False if it has already ended."""
        if not self._end(None, Cancelled("the request was withdrawn before its answer came")):
            return False
        self._call_off()
        self._fleet.unpark(self.send)
        answer = self._answer
        if answer is not None:
            answer.cancel()
        return True

    def _answered(self, endpoint: Endpoint, began: float, answer: Future[Array]) -> None:
        self._answer = None
        self._fleet.give_back(endpoint)
        try:
            error = answer.exception()
        except CancelledError as exc:
            error = Cancelled("the request was withdrawn before its answer came")
            error.__cause__ = exc
        self._settle(endpoint, began, None if error else answer.result(), error)

    def _settle(self, endpoint: Endpoint, began: float, result: Array | None, error: BaseException | None) -> None:
        """Act on the end of an attempt: deliver its result, fail, or retry."""
        if error is None:
            self._fleet.answered(endpoint, self._model, time.monotonic() - began)
            self._end(result, None)
            return
        if self._over:
            return  # a cancelled attempt says nothing about its endpoint
        failure = failure_kind(error)
        if not isinstance(error, ClipdexError) or failure is FailureKind.FINAL or self._fleet.closed.is_set():
            self._end(None, error)
            return
        if failure is FailureKind.MISSING and self._model not in self._fleet.fingerprints:
            self._end(None, error)
            return
        self._error = error
        self._fleet.failed(endpoint, failure, error, began)
        self._try_again(endpoint, failure)

    def _try_again(self, endpoint: Endpoint, failure: FailureKind) -> None:
        """Retry at once if another endpoint is healthy, else after a wait."""
        now = time.monotonic()
        self._late += failure is FailureKind.LATE
        self._faults += failure is FailureKind.FAULT
        if failure is not FailureKind.MISSING:
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = now
        self._give_up_at = self._deadline
        if self._missing_since is not None:
            self._give_up_at = min(self._deadline, self._missing_since + self._policy.not_found_s)
        most = self._policy.max_attempts
        if (
            (most is not None and self._attempts >= most)
            or self._faults >= self._policy.fault_attempts
            or self._give_up_at - now < _SHORTEST_S
        ):
            self._give_up()
            return
        self._tried.append(endpoint)
        wait_s = 0.0
        if not self._fleet.has_another(self._tried):
            self._tried.clear()
            wait_s = min(self._policy.wait_s(self._waits), (self._give_up_at - now) / 2)
            self._waits += 1
        _LOG.debug("%s: attempt %d failed (%s)", self._model, self._attempts, self._error)
        # On the timer's thread: the current one is gRPC's, and must not be blocked.
        self._call_off = self._timer.after(wait_s, self.send)

    def _give_up(self) -> None:
        """End with the latest error, adding the attempts and seconds spent."""
        self._fleet.unpark(self.send)
        error = self._error
        if self._fleet.is_hopeless():
            error = self._fleet.why()
        elif error is None:
            closed = self._fleet.closed.is_set()
            error = Closed("the connection is closed") if closed else self._fleet.why()
        seconds = time.monotonic() - self._began
        if self._attempts != 1 or isinstance(error, FingerprintMismatch):
            times = f"tried {counted(self._attempts, 'time')} in" if self._attempts else "for"
            told = type(error)(f"{error} ({times} {seconds:.1f} s)")
            told.__cause__ = error.__cause__
            error = told
        self._end(None, error)

    def _end(self, result: Array | None, error: BaseException | None) -> bool:
        """Settle the request, once -> whether this call did."""
        with self._lock:
            if self._over:
                return False
            self._over = True
        self._inputs = {}  # do not keep the pixels as long as the future
        if self._hook is not None:
            self._tell(error)
        if error is not None:
            self.set_exception(error)
        else:
            assert result is not None
            self.set_result(result)
        return True

    def _tell(self, error: BaseException | None) -> None:
        assert self._hook is not None
        now = time.monotonic()
        timing = RequestTiming(
            model=self._model,
            rows=self._rows,
            sent_bytes=self._sent_bytes,
            endpoint=self._endpoint,
            attempts=self._attempts,
            seconds=now - self._began,
            attempt_seconds=now - self._attempt_began if self._attempts else 0.0,
            outcome="ok" if error is None else type(error).__name__,
        )
        try:
            self._hook(timing)
        except Exception:
            _LOG.exception("the on_request hook failed")


def _nothing() -> None:
    pass
