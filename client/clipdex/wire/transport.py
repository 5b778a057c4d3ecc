"""What the client asks of a server, whatever carries it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from clipdex.arrays import Array

__all__ = ["ModelConfig", "ServerInfo", "Transport"]


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
    """

    name: str
    max_batch_size: int
    instance_count: int
    parameters: Mapping[str, str] = field(default_factory=dict)


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

    def submit(self, model: str, inputs: Mapping[str, Array], output: str, timeout_s: float) -> Future[Array]:
        """Send one request and return at once; the future holds the output tensor or a ClipdexError."""
        ...

    def close(self) -> None:
        """End all connections. Safe to call twice."""
        ...
