"""The description of a family of checkpoints: how to recognise and load it, and the files it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipdex_export.checkpoint import Checkpoint
from clipdex_export.hub import CheckpointFiles

__all__ = ["Family", "Load"]

# (source as given, its files, whether missing weights may be random) -> the checkpoint to export.
Load = Callable[[str, CheckpointFiles, bool], Checkpoint]


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint directory, local or on the hub.

    name: as in `Checkpoint.family`. title, examples, picture, text, fused: for the table in docs/families.md.
    marks: description of the files by which `recognises` identifies a directory.
    weights: patterns of the weight files, the safe format first; they are tried on the hub one after another.
    """

    name: str
    title: str
    examples: str
    marks: str
    picture: str
    text: str
    fused: str
    recognises: Callable[[Path], bool]
    weights: tuple[str, ...]
    load: Load
