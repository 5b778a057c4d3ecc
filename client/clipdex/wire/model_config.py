"""Parsing of a model's configuration, from a server or from a config.pbtxt on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from clipdex.base.errors import CardError
from clipdex.wire.generated import model_config_pb2, text_format
from clipdex.wire.transport import ModelConfig

__all__ = [
    "asks_for_tf32",
    "from_message",
    "instances",
    "parameters_of",
    "read_config",
    "row_bytes",
    "write_config",
]


# Beyond what any real server states. Numbers by which a client allocates memory are bounded again there.
_MOST_ROWS = 2**20
_MOST_INSTANCES = 4096
_MOST_TENSORS = 64
_MOST_DIMS = 8
_LARGEST_DIM = 2**31 - 1
_LARGEST_FILE = 16 << 20  # bytes


def from_message(message: Any) -> ModelConfig:
    """Extract the fields that the client needs from an `inference.ModelConfig` message.

    Raises:
        CardError: a number in it is out of range.
    """
    name = message.name[:200]
    for group in message.instance_group:
        _require(name, "instance_group.count", group.count, 0, _MOST_INSTANCES)
    _require(name, "max_batch_size", message.max_batch_size, 0, _MOST_ROWS)
    count = instances(message)
    _require(name, "number of instances", count, 1, _MOST_INSTANCES)
    return ModelConfig(
        name=message.name,
        max_batch_size=message.max_batch_size,
        instance_count=count,
        parameters=parameters_of(message),
        inputs=_dims(name, message.input),
        outputs=_dims(name, message.output),
        runtime=message.backend[:200],
    )


def _dims(name: str, tensors: Iterable[Any]) -> dict[str, tuple[int, ...]]:
    found = {tensor.name: tuple(tensor.dims) for tensor in tensors}
    _require(name, "number of tensors", len(found), 0, _MOST_TENSORS)
    for dims in found.values():
        _require(name, "number of dimensions", len(dims), 0, _MOST_DIMS)
        for dim in dims:
            _require(name, "dims", dim, -1, _LARGEST_DIM)
    return found


def _require(name: str, what: str, found: int, least: int, most: int) -> None:
    if not least <= found <= most:
        raise CardError(
            f"the configuration of the model {name} states {found:,} as its {what}; expected {least:,} to {most:,}"
        )


def instances(message: Any, gpus: int = 1) -> int:
    """Count a model's instances. A group has its count on each GPU it lists, else on each of `gpus`."""
    return sum((group.count or 1) * (len(group.gpus) or gpus) for group in message.instance_group) or gpus


def parameters_of(message: Any) -> dict[str, str]:
    """Return the parameters of an `inference.ModelConfig` message."""
    return {key: value.string_value for key, value in message.parameters.items()}


def asks_for_tf32(config: Any) -> bool:
    """Return whether a `ModelConfig` message has the factors of products rounded to TensorFloat-32 on a GPU."""
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    return any(one.name == "cuda" and one.parameters.get("use_tf32") == "1" for one in accelerators)


def read_config(path: Path) -> Any:
    """Parse a config.pbtxt to an `inference.ModelConfig` message.

    Raises:
        CardError: it cannot be read or is not in Triton's text format.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise CardError(f"{path}: not a Triton model configuration: larger than {_LARGEST_FILE >> 20} MiB")
        return text_format.Parse(data.decode("utf-8"), model_config_pb2.ModelConfig())
    except OSError as exc:
        raise CardError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError, text_format.ParseError) as exc:
        raise CardError(f"{path}: not a Triton model configuration: {' '.join(str(exc).split())[:300]}") from exc


def write_config(config: Any, path: Path) -> None:
    """Write an `inference.ModelConfig` message as a config.pbtxt."""
    path.write_text(text_format.MessageToString(config), encoding="utf-8")


def row_bytes(config: Any) -> int:
    """Return the bytes of one row's inputs and outputs, by an `inference.ModelConfig` message."""
    from tritonclient.utils import triton_to_np_dtype

    total = 0
    for tensor in (*config.input, *config.output):
        values = 1
        for dim in tensor.dims:
            values *= max(0, dim)
        dtype = triton_to_np_dtype(model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_"))
        total += values * (np.dtype(dtype).itemsize if dtype else 0)
    return total
