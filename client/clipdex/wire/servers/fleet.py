"""The fleet: the servers of one address, their health, and the choice among them."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from clipdex.base.errors import ClipdexError, FingerprintMismatch, ServerUnreachable
from clipdex.wire.servers.retry_policy import FailureKind
from clipdex.wire.servers.timer import Timer
from clipdex.wire.shared_memory import SharedMemory
from clipdex.wire.transport import FINGERPRINT_PARAMETER, Transport

__all__ = ["Endpoint", "Fleet"]

_ANSWERS_KEPT = 64
_WELL_AFTER_S = 10.0


class Endpoint:
    """One server's connection, health and load. Guarded by the fleet's lock.

    in_flight: pending requests. lately: requests sent to it, decaying with each request to the fleet.
    sick: it gets no requests until a probe finds it healthy. error: why.
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
        """Return the seconds of the slowest recent answer for a model; None before the first."""
        answers = self._answers.get(model)
        return max(answers) if answers else None

    def answered(self, model: str, seconds: float) -> None:
        """Record an answered request."""
        self.faults = 0
        self._heard = time.monotonic()
        if self.ejections and time.monotonic() - self._well_since > _WELL_AFTER_S:
            self.ejections = 0
        self._answers.setdefault(model, deque(maxlen=_ANSWERS_KEPT)).append(seconds)

    def heard_since(self, moment: float) -> bool:
        """Return whether it has answered any request since a moment (monotonic)."""
        return self._heard > moment

    def eject(self, error: Exception) -> None:
        """Mark it sick."""
        self.sick, self.error = True, error
        self.ejections += 1

    def come_back(self, lately: float) -> None:
        """Mark it healthy after a probe. lately: the count of requests to start from."""
        self.lately = lately
        self.sick, self.error, self.faults = False, None, 0
        self._well_since = time.monotonic()


_LOG = logging.getLogger("clipdex.wire")

# Most probes wait one second: on a dead connection, that time is lost. Some wait longer, for a slow server.
_PROBE_TIMEOUTS_S = (1.0, 1.0, 1.0, 1.0, 5.0)
# Rests double from the first to the longest: between probes; before the first probe of a server that was ejected
# again soon after it came back; and, shortest, while no other server is healthy and requests wait.
_FIRST_REST_S = 0.1
_LONGEST_REST_S = 2.0
_LONGEST_EJECTION_S = 30.0
_LONGEST_REST_ALONE_S = 0.5
_FAULTS_IN_A_ROW = 3
_MEMORY = 0.98  # decay of `lately` per request: it covers the last fifty or so
_SPREAD_S = 0.02  # so that waiting requests are not sent all at once
_QUIET_S = 10.0  # between two identical lines in the log


class Fleet:
    """Endpoints that hold the same models. Requests go to the one with the fewest pending.

    fingerprints: of each Triton model in use; an endpoint with a different one gets no requests.
    """

    def __init__(self, transports: Sequence[Transport], timer: Timer) -> None:
        self.endpoints = [Endpoint(transport) for transport in transports]
        self.fingerprints: dict[str, str | None] = {}
        self.closed = threading.Event()
        self._timer = timer
        self._lock = threading.Lock()
        self._parked: dict[Callable[[], None], None] = {}  # in order of arrival
        self._memories: list[SharedMemory] = []
        self._said: dict[tuple[str, FailureKind], float] = {}

    def take(self, without: Collection[Endpoint] = ()) -> Endpoint | None:
        """Pick the least busy healthy endpoint, if possible not one of `without`; None if all are sick.

        Return it with `give_back`.
        """
        with self._lock:
            well = [endpoint for endpoint in self.endpoints if not endpoint.sick]
            if not well:
                return None
            fresh = [endpoint for endpoint in well if endpoint not in without] if without else well
            chosen = _least_busy(fresh or well)
            for endpoint in self.endpoints:
                endpoint.lately *= _MEMORY
            chosen.in_flight += 1
            chosen.lately += 1.0
            return chosen

    def give_back(self, endpoint: Endpoint) -> None:
        """Return an endpoint after the request for which it was taken."""
        with self._lock:
            endpoint.in_flight -= 1

    def has_another(self, without: Collection[Endpoint]) -> bool:
        """Return whether an endpoint other than these is healthy."""
        with self._lock:
            return any(not endpoint.sick and endpoint not in without for endpoint in self.endpoints)

    def slowest_s(self, endpoint: Endpoint, model: str) -> float | None:
        """See `Endpoint.slowest_s`."""
        with self._lock:
            return endpoint.slowest_s(model)

    def answered(self, endpoint: Endpoint, model: str, seconds: float) -> None:
        """Record a request that was answered after `seconds`."""
        with self._lock:
            endpoint.answered(model, seconds)

    def failed(self, endpoint: Endpoint, failure: FailureKind, error: Exception, began: float) -> None:
        """Record a failed request, sent at `began` (monotonic); eject the endpoint if that shows it is sick."""
        with self._lock:
            if failure is FailureKind.FAULT:
                endpoint.faults += 1
            sick = (
                failure in (FailureKind.SICK, FailureKind.MISSING)
                or (failure is FailureKind.LATE and not endpoint.heard_since(began))
                or (
                    failure is FailureKind.FAULT
                    and endpoint.faults >= _FAULTS_IN_A_ROW
                    and len(self.endpoints) > 1
                )
            )
        if sick:
            self.eject(endpoint, error)
        elif failure is not FailureKind.FINAL and self._not_said_lately(endpoint, failure):
            level = logging.INFO if failure is FailureKind.BUSY else logging.WARNING
            _LOG.log(level, "%s; trying again", error)

    def eject(self, endpoint: Endpoint, error: Exception) -> None:
        """Send an endpoint no more requests, and start probing it."""
        with self._lock:
            if endpoint.sick or self.closed.is_set():
                return
            endpoint.eject(error)
        _LOG.warning("%s; probing it until it is healthy again", error)
        name = f"clipdex-probe-{endpoint.address}"
        threading.Thread(target=self._watch, args=(endpoint,), name=name, daemon=True).start()

    def park(self, go_on: Callable[[], None]) -> None:
        """Have the timer call `go_on` once an endpoint is healthy."""
        with self._lock:
            if all(endpoint.sick for endpoint in self.endpoints):
                self._parked[go_on] = None
                return
        self._timer.after(0.0, go_on)

    def unpark(self, go_on: Callable[[], None]) -> None:
        """Withdraw a parked call."""
        with self._lock:
            self._parked.pop(go_on, None)

    def why(self) -> Exception:
        """Return a new error that says why no endpoint is healthy."""
        with self._lock:
            errors = [endpoint.error for endpoint in self.endpoints if endpoint.error is not None]
        # A server that is up with another model needs action; the others may come back by themselves.
        errors.sort(key=lambda error: not isinstance(error, FingerprintMismatch))
        if not errors:
            return ServerUnreachable("no server answers")
        return type(errors[0])(str(errors[0]))

    def is_hopeless(self) -> bool:
        """Return whether all endpoints are up, but hold a different model than before."""
        with self._lock:
            return all(isinstance(endpoint.error, FingerprintMismatch) for endpoint in self.endpoints)

    def share(self, memory: SharedMemory, timeout_s: float) -> bool:
        """Register shared memory with each healthy endpoint -> whether one accepts.

        Sick endpoints are asked when they return. Memory that no endpoint accepts is dropped here too:
        otherwise it would live as long as the client.
        """
        with self._lock:
            self._memories.append(memory)
            well = [endpoint for endpoint in self.endpoints if not endpoint.sick]
        shared = False
        try:
            for endpoint in well:
                shared |= self._share_with(endpoint, memory, timeout_s)
        finally:
            if not shared:
                self.unshare(memory)
        return shared

    def unshare(self, memory: SharedMemory) -> None:
        """Unregister shared memory from all endpoints."""
        with self._lock:
            self._memories = [each for each in self._memories if each is not memory]
            having = [endpoint for endpoint in self.endpoints if memory in endpoint.shared]
            for endpoint in having:
                endpoint.shared.remove(memory)
        for endpoint in having:
            endpoint.transport.unshare(memory)

    def _share_with(self, endpoint: Endpoint, memory: SharedMemory, timeout_s: float) -> bool:
        """Register shared memory with one endpoint, unless it is unshared before the answer."""
        if not endpoint.transport.share(memory, timeout_s):
            return False
        with self._lock:
            wanted = memory in self._memories
            if wanted:
                endpoint.shared.append(memory)
        if not wanted:
            endpoint.transport.unshare(memory)
        return wanted

    def close(self) -> None:
        """Close all connections; parked requests continue, and end with an error."""
        self.closed.set()
        with self._lock:
            parked, self._parked = list(self._parked), {}
        for go_on in parked:
            go_on()
        for endpoint in self.endpoints:
            endpoint.transport.close()

    def _watch(self, endpoint: Endpoint) -> None:
        began = time.monotonic()
        for probes in itertools.count():
            # The first probe comes at once, unless the endpoint was ejected recently before.
            rest_s = (
                self._rest_s(probes, _LONGEST_REST_S)
                if probes
                else self._rest_s(endpoint.ejections - 1, _LONGEST_EJECTION_S)
            )
            if self.closed.wait(rest_s):
                return
            try:
                self._probe(endpoint, _PROBE_TIMEOUTS_S[probes % len(_PROBE_TIMEOUTS_S)])
            except FingerprintMismatch as exc:
                if not isinstance(endpoint.error, FingerprintMismatch):
                    _LOG.error("%s", exc)
                endpoint.error = exc
                if self.is_hopeless():
                    self._release()
            except ClipdexError as exc:
                endpoint.error = exc
            except Exception:  # without this thread the endpoint would never come back
                _LOG.exception("probing %s failed", endpoint.address)
            else:
                if self.closed.is_set():
                    return
                with self._lock:
                    # It gets its share from now on, and does not make up for what it missed.
                    endpoint.come_back(max(each.lately for each in self.endpoints))
                _LOG.info("%s answers again after %.1f s", endpoint.address, time.monotonic() - began)
                self._release()
                return

    def _rest_s(self, times: int, longest_s: float) -> float:
        if times < 1:
            return 0.0
        with self._lock:
            alone = all(endpoint.sick for endpoint in self.endpoints)
        longest_s = min(longest_s, _LONGEST_REST_ALONE_S) if alone else longest_s
        return min(longest_s, _FIRST_REST_S * 2.0 ** min(times - 1, 16)) * random.uniform(0.5, 1.0)

    def _probe(self, endpoint: Endpoint, timeout_s: float) -> None:
        endpoint.transport.server(timeout_s)
        for model, fingerprint in list(self.fingerprints.items()):
            found = endpoint.transport.config(model, timeout_s).parameters.get(FINGERPRINT_PARAMETER)
            if found != fingerprint:
                raise FingerprintMismatch(
                    f"{endpoint.address} came back with another {model}: its fingerprint is {str(found)[:12]}, it "
                    f"was {str(fingerprint)[:12]}; serve the same export again, or reconnect"
                )
        with self._lock:
            missing = [memory for memory in self._memories if memory not in endpoint.shared]
        for memory in missing:
            self._share_with(endpoint, memory, timeout_s)

    def _release(self) -> None:
        with self._lock:
            parked, self._parked = list(self._parked), {}
        for go_on in parked:
            self._timer.after(random.uniform(0.0, _SPREAD_S), go_on)

    def _not_said_lately(self, endpoint: Endpoint, failure: FailureKind) -> bool:
        now = time.monotonic()
        with self._lock:
            key = (endpoint.address, failure)
            if now - self._said.get(key, -_QUIET_S) < _QUIET_S:
                return False
            self._said[key] = now
            return True


def _least_busy(endpoints: Sequence[Endpoint]) -> Endpoint:
    """Return the endpoint with the fewest pending requests; among busy ones, a difference of one does not count.

    Of equals, the one that was sent the fewest recently: equal servers then share a load evenly, even if one
    happens to be slightly ahead.
    """
    fewest = min(endpoint.in_flight for endpoint in endpoints)
    enough = fewest + 1 if fewest else 0  # a server with nothing to do always comes first
    equals = [endpoint for endpoint in endpoints if endpoint.in_flight <= enough]
    return min(equals, key=lambda endpoint: (endpoint.lately, endpoint.in_flight))
