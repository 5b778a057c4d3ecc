"""A model's configuration: Triton's protobuf message, from a server or from a config.pbtxt on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from clipdex.errors import CardError
from clipdex.wire.transport import ModelConfig

__all__ = ["from_message", "read_config"]


def from_message(message: Any) -> ModelConfig:
    """What the client needs of an `inference.ModelConfig` message."""
    groups = [group.count or 1 for group in message.instance_group]
    return ModelConfig(
        name=message.name,
        max_batch_size=message.max_batch_size,
        instance_count=sum(groups) or 1,
        parameters={key: value.string_value for key, value in message.parameters.items()},
    )


def read_config(path: Path) -> Any:
    """Parse a config.pbtxt to an `inference.ModelConfig` message.

    Raises:
        CardError: it cannot be read or is not Triton's text format.
    """
    try:
        return text_format.Parse(path.read_text("utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as exc:
        raise CardError(f"{path}: not a Triton model configuration: {exc}") from exc
