"""The results of inspecting a Triton server and its models, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clipdex.wire.transport import ModelStatistics

__all__ = ["Batching", "InspectedModel", "InspectedServer", "InstanceGroup", "Tensor"]


@dataclass(frozen=True)
class Tensor:
    """One input or output: its name, Triton's data type without TYPE_, and dims without the batch; -1 is any."""

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class InstanceGroup:
    """`count` instances of a model on the CPU, or on each of the GPUs. kind: KIND_CPU or KIND_GPU."""

    kind: str
    count: int
    gpus: tuple[int, ...] = ()

    @property
    def instances(self) -> int:
        """Total number of instances."""
        return self.count * max(1, len(self.gpus))


@dataclass(frozen=True)
class Batching:
    """The dynamic batcher's settings.

    preferred: batch sizes set by hand; left to itself, Triton fills in max_batch_size only.
    queue_size: requests that may wait; 0 for no limit. queue_timeout_us: how long they may wait; 0 for no limit.
    """

    delay_us: int = 0
    preferred: tuple[int, ...] = ()
    queue_size: int = 0
    queue_timeout_us: int = 0


@dataclass(frozen=True)
class InspectedModel:
    """One Triton model, as the server runs it.

    batching: None without a dynamic batcher. accelerators: name -> its parameters. warm_ups: batch sizes.
    """

    name: str
    backend: str
    max_batch_size: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    groups: tuple[InstanceGroup, ...]
    batching: Batching | None
    parameters: Mapping[str, str] = field(default_factory=dict)
    accelerators: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    warm_ups: tuple[int, ...] = ()
    statistics: ModelStatistics = field(default_factory=ModelStatistics)

    @property
    def on_gpu(self) -> bool:
        """True if any instance is on a GPU."""
        return any(group.kind == "KIND_GPU" for group in self.groups)

    @property
    def instances(self) -> int:
        """Total number of instances."""
        return sum(group.instances for group in self.groups)


@dataclass(frozen=True)
class InspectedServer:
    """A server's name, version and models, and what it allows any client to do.

    unready: models that are not served -> why. system_memory, cuda_memory: whether clients may register shared
    memory. model_control: whether they may load and unload models. settings: whether they may change logging
    and tracing.
    """

    name: str
    version: str
    ready: bool
    models: tuple[str, ...]
    unready: Mapping[str, str]
    system_memory: bool
    cuda_memory: bool
    model_control: bool
    settings: bool
