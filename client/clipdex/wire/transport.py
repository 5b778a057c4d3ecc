"""The `Transport` interface between the client and a server, and its plain values."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from clipdex.base.arrays import Array
from clipdex.base.errors import ClipdexError
from clipdex.wire.shared_memory import SharedMemory

__all__ = [
    "FINGERPRINT_PARAMETER",
    "LARGEST_ANSWER",
    "SMALLEST_LIMIT",
    "ModelConfig",
    "ModelStatistics",
    "ServerInfo",
    "Transport",
    "failed",
]

# Limits on one answer, in bytes; larger ones are refused before memory is allocated. The first, gRPC's own
# default, is for configurations and counters; the second for the vectors of a full batch.
SMALLEST_LIMIT = 4 << 20
LARGEST_ANSWER = 64 << 20

# The key under which each config.pbtxt states the fingerprint of its model's embedding space.
FINGERPRINT_PARAMETER = "clipdex_fingerprint"


@dataclass(frozen=True)
class ServerInfo:
    """A server's name and version: `triton` and its own, or `inproc` and onnxruntime's."""

    name: str
    version: str


@dataclass(frozen=True)
class ModelConfig:
    """The fields of a Triton model's config.pbtxt that the client uses.

    max_batch_size: the most rows in one request; 0 if the model has no batch dimension.
    instance_count: the batches that the server computes at once.
    parameters: the string parameters. runtime: the name of Triton's backend; in process, also why it was chosen.
    inputs, outputs: each tensor's dimensions without the batch, -1 for any; empty if not stated.
    """

    name: str
    max_batch_size: int
    instance_count: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    runtime: str = ""


@dataclass(frozen=True)
class ModelStatistics:
    """A server's counters of one model since it was loaded. To measure, subtract two with `since`.

    requests: those that succeeded. failures: those that did not.
    rows: rows in all requests. batches: rows of an executed batch -> number of such batches.
    queue_ns: time that requests spent in the queue. compute_ns: time that requests spent in the model, copies of
        inputs and outputs included; each request in a batch counts the batch's whole time.
    """

    requests: int = 0
    failures: int = 0
    rows: int = 0
    batches: Mapping[int, int] = field(default_factory=dict)
    queue_ns: int = 0
    compute_ns: int = 0

    def since(self, before: ModelStatistics) -> ModelStatistics:
        """Return the difference from earlier counters."""
        batches = {rows: count - before.batches.get(rows, 0) for rows, count in self.batches.items()}
        return ModelStatistics(
            self.requests - before.requests,
            self.failures - before.failures,
            self.rows - before.rows,
            {rows: count for rows, count in batches.items() if count},
            self.queue_ns - before.queue_ns,
            self.compute_ns - before.compute_ns,
        )

    def __add__(self, other: ModelStatistics) -> ModelStatistics:
        """Sum the counters of two servers."""
        batches = {
            rows: self.batches.get(rows, 0) + other.batches.get(rows, 0)
            for rows in (*self.batches, *other.batches)
        }
        return ModelStatistics(
            self.requests + other.requests,
            self.failures + other.failures,
            self.rows + other.rows,
            batches,
            self.queue_ns + other.queue_ns,
            self.compute_ns + other.compute_ns,
        )

    @property
    def mean_batch(self) -> float:
        """Mean number of rows in an executed batch; 0 if none was executed."""
        executed = sum(self.batches.values())
        return sum(rows * count for rows, count in self.batches.items()) / executed if executed else 0.0


def failed(error: ClipdexError) -> Future[Array]:
    """Return the answer to a request that was not sent: a future that holds the error."""
    answer: Future[Array] = Future()
    answer.set_exception(error)
    return answer


class Transport(Protocol):
    """One way to reach the models of a server. Safe to call from many threads."""

    @property
    def address(self) -> str:
        """The address as the user gave it, for messages."""
        ...

    def server(self, timeout_s: float) -> ServerInfo:
        """Return the server's name and version. Raises ServerUnreachable if nothing answers."""
        ...

    def models(self, timeout_s: float) -> list[str]:
        """List the names of all Triton models that are ready, sorted."""
        ...

    def config(self, model: str, timeout_s: float) -> ModelConfig:
        """Return one model's configuration. Raises ModelNotFound."""
        ...

    def submit(
        self, model: str, inputs: Mapping[str, Array], output: str, timeout_s: float, *, wait: bool = False
    ) -> Future[Array]:
        """Send one request and return at once -> a future of the output tensor or a ClipdexError.

        A request that is refused or cannot be sent is a future that has failed: no ClipdexError is raised here,
        except in a child that was forked from the process of the transport.

        The arrays must not change until the future is done. `cancel` on the future withdraws the request.
        wait: the caller will do nothing until it is done, so it may be answered in this call. No other thread has
        to wake up then, which saves a third of a millisecond on a single request.
        """
        ...

    def statistics(self, model: str, timeout_s: float) -> ModelStatistics:
        """Return the server's counters of one model; zeros if it keeps none."""
        ...

    def share(self, memory: SharedMemory, timeout_s: float) -> bool:
        """Register shared memory, so that requests refer to arrays in it; False if that is not possible."""
        ...

    def unshare(self, memory: SharedMemory) -> None:
        """Unregister shared memory, before it is closed. Never fails."""
        ...

    def close(self) -> None:
        """Close all connections. Safe to call twice."""
        ...
