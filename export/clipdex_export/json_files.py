"""Reading of the JSON files that come with a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipdex.base.errors import CheckpointError
from clipdex_export.weights import one_line

__all__ = ["peek_json", "read_json"]


def read_json(path: Path, why: str = "") -> dict[str, Any]:
    """Read a file with one JSON object.

    Args:
        path: the file.
        why: a description of the file, for the error if it is missing; by default its name.

    Raises:
        CheckpointError: it is missing, unreadable, or not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path.parent} is not a checkpoint: it has no {why or path.name}") from exc
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{path} cannot be read: {one_line(exc)}") from exc
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return data


def peek_json(path: Path) -> Any:
    """Read a JSON file, or return None if it is missing or broken: for recognising a directory."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
