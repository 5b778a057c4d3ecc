"""What the export tests share: a CLIP of a few hundred kilobytes, and text to learn tokenizers from."""

from __future__ import annotations

import json
import pydoc_data.topics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipdex_export.random_checkpoint import ClipShape, write_random_checkpoint

TINY = ClipShape(
    image_size=64,
    patch_size=32,
    vision_width=64,
    vision_layers=1,
    text_width=64,
    text_layers=1,
    projection=32,
    vocabulary=1200,
)


def corpus() -> Iterator[str]:
    """English prose that is on every machine with Python: the language reference behind `help()`."""
    for text in pydoc_data.topics.topics.values():
        yield from text.splitlines()


def write_tiny(directory: Path, *, merges: int = 0, seed: int = 0, shape: ClipShape = TINY) -> Path:
    """A random checkpoint -> its directory."""
    write_random_checkpoint(directory, shape, corpus=corpus(), merges=merges, seed=seed)
    return directory


def edit_json(path: Path, **changes: Any) -> None:
    """Set fields of a JSON file; None removes one."""
    data = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            data.pop(key, None)
        else:
            data[key] = value
    path.write_text(json.dumps(data))


def everything_in(directory: Path) -> list[str]:
    """Every path below a directory, sorted: two calls that are equal mean that nothing was left behind."""
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
