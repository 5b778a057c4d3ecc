"""Snapshot of a deployment: all that the checks know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from clipdex.base.processor import Processor
from clipdex.model.card import ModelCard
from clipdex.wire.inspect.findings import InspectedModel, InspectedServer

__all__ = ["Exposure", "Gpu", "Metrics", "Model", "Single", "Snapshot", "Trial", "release_of"]


@dataclass(frozen=True)
class Gpu:
    """One GPU, as Triton's metrics report it. memory_used, memory_total: bytes."""

    uuid: str
    memory_used: int = 0
    memory_total: int = 0


@dataclass(frozen=True)
class Metrics:
    """The server's metrics. address: where they were looked for. reachable: whether they answered there.

    asked: whether the caller named the address; otherwise Triton's usual port was tried.
    """

    address: str
    reachable: bool
    asked: bool
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Exposure:
    """The addresses at which the server can be reached.

    local: it is on this machine. tls: the connection is encrypted. open_on: addresses of this machine, other than
    loopback, at which its gRPC port answers. http_on: HOST:PORT at which it speaks HTTP; http_beyond: those of
    them that other machines may reach.
    """

    local: bool
    tls: bool = False
    open_on: tuple[str, ...] = ()
    http_on: tuple[str, ...] = ()
    http_beyond: tuple[str, ...] = ()

    @property
    def beyond_this_machine(self) -> bool:
        """True if other machines may reach its gRPC port."""
        return not self.local or bool(self.open_on)


@dataclass(frozen=True)
class Single:
    """The times of one request of one row, in seconds: as the client saw it, and as the server counted it."""

    round_trip_s: float
    queue_s: float
    compute_s: float

    @property
    def outside_s(self) -> float:
        """Time that the server did not count: gRPC, the network, preparing the request."""
        return max(0.0, self.round_trip_s - self.queue_s - self.compute_s)


@dataclass(frozen=True)
class Trial:
    """The results of a few requests to one tower.

    error: why a single row was not answered. full_error: why a full batch, of full_bytes, was not.
    norm, finite: of the worst vector. alone_to_full: cosine of one row's vector alone and within a full batch.
    single: the single row of median time, or None if others were using the model at the same time.
    """

    error: str | None = None
    norm: float = 1.0
    finite: bool = True
    dim: int = 0
    single: Single | None = None
    full_bytes: int = 0
    full_error: str | None = None
    alone_to_full: float = 1.0


@dataclass(frozen=True)
class Model:
    """One exported model: its Triton models by part, and its card as the server sends it.

    missing: parts that the server does not have. card_error: why there is no card.
    assets_sha256: hash of the zip received; stated_sha256: hash in its configuration.
    trials: results by tower.
    """

    name: str
    parts: Mapping[str, InspectedModel]
    missing: tuple[str, ...] = ()
    card: ModelCard | None = None
    card_error: str | None = None
    assets_sha256: str | None = None
    stated_sha256: str | None = None
    trials: Mapping[str, Trial] = field(default_factory=dict)

    @property
    def towers(self) -> Mapping[str, InspectedModel]:
        """The parts that compute: image and text."""
        return {part: model for part, model in self.parts.items() if part != "assets"}


@dataclass(frozen=True)
class Snapshot:
    """One server at one moment. models: those that clipdex exported, or their parts, sorted by name.

    gpu_here: the server is on this machine, which has an NVIDIA GPU.
    processor: this machine's, if the server is on it; else None.
    """

    address: str
    server: InspectedServer
    exposure: Exposure
    metrics: Metrics
    models: tuple[Model, ...] = ()
    gpu_here: bool = False
    processor: Processor | None = None

    @property
    def gpu_there(self) -> bool | None:
        """True if the server's machine has a GPU; None if that cannot be known from here."""
        if self.metrics.gpus or self.gpu_here:
            return True
        return False if self.metrics.reachable or self.exposure.local else None


def release_of(server: InspectedServer) -> tuple[int, int] | None:
    """Return Triton's own version, such as (2, 57) for 25.04; None if it is not Triton, or gives no number."""
    number = re.match(r"(\d+)\.(\d+)", server.version)
    if server.name != "triton" or number is None:
        return None
    return int(number[1]), int(number[2])
