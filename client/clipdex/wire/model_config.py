"""A model's configuration: Triton's protobuf message, from a server or from a config.pbtxt on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from clipdex.errors import CardError
from clipdex.wire.transport import ModelConfig

__all__ = ["from_message", "instances", "read_config"]


def from_message(message: Any) -> ModelConfig:
    """What the client needs of an `inference.ModelConfig` message."""
    return ModelConfig(
        name=message.name,
        max_batch_size=message.max_batch_size,
        instance_count=instances(message),
        parameters={key: value.string_value for key, value in message.parameters.items()},
    )


def instances(message: Any, gpus: int = 1) -> int:
    """How often the model is there at once. A group has its count on each GPU it lists, else on each of `gpus`."""
    return sum((group.count or 1) * (len(group.gpus) or gpus) for group in message.instance_group) or gpus


def read_config(path: Path) -> Any:
    """Parse a config.pbtxt to an `inference.ModelConfig` message.

    Raises:
        CardError: it cannot be read or is not Triton's text format.
    """
    try:
        return text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as exc:
        raise CardError(f"{path}: not a Triton model configuration: {exc}") from exc
