"""The size of the page-locked memory pool for a Triton with GPUs, by what its clients keep in flight."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from clipdex.base.errors import ClipdexError

__all__ = ["gpu_count", "in_flight_bytes", "pinned_pool_bytes"]

_DEVICES = Path("/dev")
_TRITONS_DEFAULT = 256 << 20
_BATCHES_AN_INSTANCE = 2  # one being computed, one waiting: what a clipdex client keeps in flight


def gpu_count(devices: Path = _DEVICES) -> int:
    """Count the NVIDIA GPUs of this machine by their device files."""
    return sum(path.name.removeprefix("nvidia").isdigit() for path in devices.glob("nvidia*"))


def pinned_pool_bytes(repository: Path, models: Iterable[str] | None, gpus: int) -> int | None:
    """Return the size of the pinned pool, at least Triton's own default; None without a GPU."""
    return max(_TRITONS_DEFAULT, in_flight_bytes(repository, models, gpus)) if gpus else None


def in_flight_bytes(repository: Path, models: Iterable[str] | None, gpus: int) -> int:
    """Return the bytes of inputs and outputs of two full batches for each instance of each model.

    Models without a fixed size, such as the assets, do not count, nor do those whose configuration cannot be read:
    Triton itself will report these.
    """
    from clipdex.wire.model_config import read_config, row_bytes

    total = 0
    for path in sorted(repository.glob("*/config.pbtxt")):
        with suppress(ClipdexError, ValueError):  # ValueError: a data type that this protobuf does not know
            config = read_config(path)
            if models is not None and path.parent.name not in models:
                continue
            total += _BATCHES_AN_INSTANCE * _instances(config, gpus) * config.max_batch_size * row_bytes(config)
    return total


def _instances(config: Any, gpus: int) -> int:
    """Count the instances of a model that take their inputs from the pool."""
    from clipdex.wire.model_config import instances

    cpu = config.instance_group and all(group.kind == group.KIND_CPU for group in config.instance_group)
    if cpu:
        return 0  # its tensors never go to a GPU
    return instances(config, gpus)
