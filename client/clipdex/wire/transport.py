"""What the client asks of a server, whatever carries it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from clipdex.base.arrays import Array
from clipdex.wire.shared_memory import SharedMemory

__all__ = [
    "FINGERPRINT_PARAMETER",
    "LARGEST_ANSWER",
    "SMALLEST_LIMIT",
    "ModelConfig",
    "ModelStatistics",
    "ServerInfo",
    "Transport",
]

# What one answer may take, in bytes; what is larger is refused before any room is made for it. Configurations
# and counters keep to the first, gRPC's own default; the vectors of a full batch to the second.
SMALLEST_LIMIT = 4 << 20
LARGEST_ANSWER = 64 << 20

# The key under which each config.pbtxt states the fingerprint of its model's embedding space.
FINGERPRINT_PARAMETER = "clipdex_fingerprint"


@dataclass(frozen=True)
class ServerInfo:
    """Who answers: `triton` and its version, or `inproc` and onnxruntime's."""

    name: str
    version: str


@dataclass(frozen=True)
class ModelConfig:
    """What the client reads of a Triton model's config.pbtxt.

    max_batch_size: rows in one request at most; 0 if the model has no batch dimension.
    instance_count: how many batches the server computes at once.
    parameters: the string parameters.
    inputs, outputs: each tensor's dimensions without the batch, -1 where any will do; empty if nobody says.
    """

    name: str
    max_batch_size: int
    instance_count: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelStatistics:
    """What a server has counted of one model since it was loaded. Take two and subtract.

    requests: those that succeeded; failures: those that did not.
    rows: what they carried, all together. batches: rows of an executed batch -> how often.
    queue_ns: the requests' waiting. compute_ns: the requests' time in the model, input and output copies
        included; what shares a batch counts the batch's time each.
    """

    requests: int = 0
    failures: int = 0
    rows: int = 0
    batches: Mapping[int, int] = field(default_factory=dict)
    queue_ns: int = 0
    compute_ns: int = 0

    def since(self, before: ModelStatistics) -> ModelStatistics:
        """What was counted after `before` was taken."""
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
        """Both servers' counts together."""
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
        """Rows in an executed batch, on average; 0 if none was executed."""
        executed = sum(self.batches.values())
        return sum(rows * count for rows, count in self.batches.items()) / executed if executed else 0.0


class Transport(Protocol):
    """One way to reach the models of a server. Safe to call from many threads."""

    @property
    def address(self) -> str:
        """The address as the user gave it, for messages."""
        ...

    def server(self, timeout_s: float) -> ServerInfo:
        """Who answers. Raises ServerUnreachable if nobody does."""
        ...

    def models(self, timeout_s: float) -> list[str]:
        """The names of all Triton models that are ready, sorted."""
        ...

    def config(self, model: str, timeout_s: float) -> ModelConfig:
        """One model's configuration. Raises ModelNotFound."""
        ...

    def submit(
        self, model: str, inputs: Mapping[str, Array], output: str, timeout_s: float, *, wait: bool = False
    ) -> Future[Array]:
        """Send one request and return at once; the future holds the output tensor or a ClipdexError.

        The arrays must not change until the future is done. `cancel` on the future withdraws the request.
        wait: the caller will do nothing before it is done: it may be answered in this call. No other thread need
        be woken then, which is a third of a millisecond of a lone request.
        """
        ...

    def statistics(self, model: str, timeout_s: float) -> ModelStatistics:
        """What the server has counted of one model; zeros where nobody counts."""
        ...

    def share(self, memory: SharedMemory, timeout_s: float) -> bool:
        """Let requests name arrays in this memory instead of carrying them; False where that cannot be."""
        ...

    def unshare(self, memory: SharedMemory) -> None:
        """Forget about it, before it is closed. Never fails."""
        ...

    def close(self) -> None:
        """End all connections. Safe to call twice."""
        ...
