"""A deployment as it was seen at one moment: all that the checks know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from clipdex.model.card import ModelCard
from clipdex.wire.inspect.findings import InspectedModel, InspectedServer

__all__ = ["Exposure", "Gpu", "Metrics", "Model", "Single", "Snapshot", "Trial", "release_of"]


@dataclass(frozen=True)
class Gpu:
    """One GPU as Triton's metrics have it. memory_used, memory_total: bytes."""

    uuid: str
    memory_used: int = 0
    memory_total: int = 0


@dataclass(frozen=True)
class Metrics:
    """What the metrics port says. address: where it was looked for. reachable: whether it answered there.

    asked: whether the caller named the port. Otherwise it was looked for at Triton's usual one.
    """

    address: str
    reachable: bool
    asked: bool
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Exposure:
    """Who can reach the server.

    local: it is this machine's. tls: the connection is encrypted. open_on: addresses of this machine, none of
    them loopback, at which its gRPC port answers. http_on: HOST:PORT at which it speaks HTTP; http_beyond: those
    of them that others may reach.
    """

    local: bool
    tls: bool = False
    open_on: tuple[str, ...] = ()
    http_on: tuple[str, ...] = ()
    http_beyond: tuple[str, ...] = ()

    @property
    def beyond_this_machine(self) -> bool:
        """Whether anybody but this machine may reach its gRPC port."""
        return not self.local or bool(self.open_on)


@dataclass(frozen=True)
class Single:
    """One request of one row, in seconds: as the client saw it, and what the server counted of it."""

    round_trip_s: float
    queue_s: float
    compute_s: float

    @property
    def outside_s(self) -> float:
        """What the server did not count: gRPC, the network, making the request."""
        return max(0.0, self.round_trip_s - self.queue_s - self.compute_s)


@dataclass(frozen=True)
class Trial:
    """What came of a few requests to one tower.

    error: why a single row was not answered. full_error: why a full batch, of full_bytes, was not.
    norm, finite: of the worst vector. alone_to_full: cosine of one row's vector alone to that within a full batch.
    single: the single row of median time, or None where others were using the model meanwhile.
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
    """One exported model: its Triton models by part, and its card as the server gives it.

    missing: parts that the server does not have. card_error: why there is no card.
    assets_sha256: of the zip that came; stated_sha256: as its configuration has it.
    trials: by tower.
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
    """One server. models: those that clipdex exported, or their parts, sorted by name.

    gpu_here: the server is this machine's, and the machine has an NVIDIA GPU.
    """

    address: str
    server: InspectedServer
    exposure: Exposure
    metrics: Metrics
    models: tuple[Model, ...] = ()
    gpu_here: bool = False

    @property
    def gpu_there(self) -> bool | None:
        """Whether the server's machine has a GPU; None if that cannot be known from here."""
        if self.metrics.gpus or self.gpu_here:
            return True
        return False if self.metrics.reachable or self.exposure.local else None


def release_of(server: InspectedServer) -> tuple[int, int] | None:
    """Triton's own version, such as (2, 57) for 25.04; None if it is none, or says no number."""
    number = re.match(r"(\d+)\.(\d+)", server.version)
    if server.name != "triton" or number is None:
        return None
    return int(number[1]), int(number[2])
