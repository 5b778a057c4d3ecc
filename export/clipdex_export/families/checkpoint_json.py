"""The small files of a checkpoint directory: JSON that says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipdex.base.errors import CheckpointError
from clipdex_export.weights import one_line

__all__ = ["peek_json", "read_json"]


def read_json(path: Path, why: str = "") -> dict[str, Any]:
    """A file that holds one JSON object.

    Args:
        path: the file.
        why: what needs it, for the error where it is not there.

    Raises:
        CheckpointError: it is missing, unreadable, or something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path.parent} is no checkpoint: {why or path.name}, and it has none") from exc
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{path} cannot be read: {one_line(exc)}") from exc
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return data


def peek_json(path: Path) -> Any:
    """What a JSON file holds, or None where it is missing or broken: for looking at what a directory is."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
