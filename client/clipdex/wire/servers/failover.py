"""A transport over one or several others, with retries, load balancing and failover."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from clipdex.base.arrays import Array
from clipdex.base.errors import ClipdexError, FingerprintMismatch
from clipdex.wire.servers.attempts import Call, RequestHook
from clipdex.wire.servers.fleet import Endpoint, Fleet
from clipdex.wire.servers.retry_policy import FailureKind, RetryPolicy, failure_kind
from clipdex.wire.servers.timer import Timer
from clipdex.wire.shared_memory import SharedMemory
from clipdex.wire.transport import FINGERPRINT_PARAMETER, ModelConfig, ModelStatistics, ServerInfo, Transport

__all__ = ["ResilientTransport"]

_T = TypeVar("_T")

# The longest to wait for one of several servers to answer a question.
_PATIENCE_S = 10.0


class ResilientTransport:
    """All servers of one address, as one. See `RetryPolicy` for what is retried.

    Questions about the server and its models are not retried: connecting should fail at once if nothing answers.
    Of several servers, some may be down then.
    """

    def __init__(
        self, transports: Sequence[Transport], policy: RetryPolicy, on_request: RequestHook | None = None
    ) -> None:
        self._timer = Timer("clipdex-retry")
        self._fleet = Fleet(transports, self._timer)
        self._policy = policy
        self._on_request = on_request
        self._pid = os.getpid()

    @property
    def address(self) -> str:
        """All addresses, separated by commas."""
        return ",".join(endpoint.address for endpoint in self._fleet.endpoints)

    def server(self, timeout_s: float) -> ServerInfo:
        """Name and version of the first server that answers."""
        return self._ask(lambda transport, limit_s: transport.server(limit_s), timeout_s)[0][1]

    def models(self, timeout_s: float) -> list[str]:
        """List the models that any server has; `config` refuses those that not all have."""
        answers = self._ask(lambda transport, limit_s: transport.models(limit_s), timeout_s)
        return sorted({model for _, models in answers for model in models})

    def config(self, model: str, timeout_s: float) -> ModelConfig:
        """Return the model's configuration, which must be of the same export everywhere; instances are summed.

        Raises:
            FingerprintMismatch: two servers hold different models of that name.
        """
        answers = self._ask(lambda transport, limit_s: transport.config(model, limit_s), timeout_s)
        first, config = answers[0]
        fingerprint = config.parameters.get(FINGERPRINT_PARAMETER)
        for endpoint, other in answers[1:]:
            found = other.parameters.get(FINGERPRINT_PARAMETER)
            if found != fingerprint:
                raise FingerprintMismatch(
                    f"{first.address} and {endpoint.address} serve different models as {model}: fingerprints "
                    f"{str(fingerprint)[:12]} and {str(found)[:12]}; serve the same export on both, or use one"
                )
        self._fleet.fingerprints[model] = fingerprint
        # Servers that are down are expected back: they count like the first.
        down = len(self._fleet.endpoints) - len(answers)
        return replace(
            config,
            max_batch_size=min(each.max_batch_size for _, each in answers),
            instance_count=sum(each.instance_count for _, each in answers) + down * config.instance_count,
        )

    def submit(
        self, model: str, inputs: Mapping[str, Array], output: str, timeout_s: float, *, wait: bool = False
    ) -> Future[Array]:
        """Send a request, with retries, until it is answered or `timeout_s` is up."""
        self._check_process()
        call = Call(self._fleet, self._timer, self._policy, self._on_request, model, inputs, output, timeout_s)
        call.send(wait=wait)
        return call

    def statistics(self, model: str, timeout_s: float) -> ModelStatistics:
        """Sum the counts of all servers."""
        answers = self._ask(lambda transport, limit_s: transport.statistics(model, limit_s), timeout_s)
        return sum((counted for _, counted in answers), ModelStatistics())

    def share(self, memory: SharedMemory, timeout_s: float) -> bool:
        """Register shared memory; True if a server accepts it. Requests to other servers carry their arrays."""
        self._check_process()
        return self._fleet.share(memory, timeout_s)

    def unshare(self, memory: SharedMemory) -> None:
        """Unregister shared memory from all servers."""
        if self._pid == os.getpid():
            self._fleet.unshare(memory)

    def close(self) -> None:
        """Close all connections; pending requests end with an error."""
        if self._pid == os.getpid():  # in a forked child, the connections are the parent's
            self._fleet.close()
            self._timer.close()

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ClipdexError(
                f"this client was connected in process {self._pid}, and this is a child that was forked from it: "
                "gRPC does not survive a fork; connect in the child"
            )

    def _ask(self, question: Callable[[Transport, float], _T], timeout_s: float) -> list[tuple[Endpoint, _T]]:
        """Ask all healthy servers concurrently -> their answers, in order; those that fail are ejected.

        Raises:
            ClipdexError: the first server's error if none answers, or any error that is not about health.
        """
        self._check_process()
        endpoints = [endpoint for endpoint in self._fleet.endpoints if not endpoint.sick] or self._fleet.endpoints
        if len(endpoints) == 1:
            return [(endpoints[0], question(endpoints[0].transport, timeout_s))]
        limit_s = min(timeout_s, _PATIENCE_S)

        def ask(endpoint: Endpoint) -> _T | ClipdexError:
            try:
                return question(endpoint.transport, limit_s)
            except ClipdexError as exc:
                return exc

        with ThreadPoolExecutor(len(endpoints), thread_name_prefix="clipdex-ask") as pool:
            replies = list(pool.map(ask, endpoints))
        answers, errors = [], []
        for endpoint, reply in zip(endpoints, replies, strict=True):
            if not isinstance(reply, ClipdexError):
                answers.append((endpoint, reply))
                continue
            if failure_kind(reply) not in (FailureKind.SICK, FailureKind.BUSY, FailureKind.LATE):
                raise reply
            errors.append((endpoint, reply))
        if not answers:
            raise errors[0][1]
        for endpoint, error in errors:
            self._fleet.eject(endpoint, error)
        return answers
