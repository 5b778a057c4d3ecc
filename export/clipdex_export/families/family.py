"""What a family of checkpoints is: how it is recognised, which files it needs, and who loads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipdex_export.checkpoint import Checkpoint
from clipdex_export.hub import CheckpointFiles

__all__ = ["Family", "Load"]

# (source as given, its files, whether missing weights may be made up) -> what is exported.
Load = Callable[[str, CheckpointFiles, bool], Checkpoint]


@dataclass(frozen=True)
class Family:
    """A kind of directory, local or of a hub.

    name: as in `Checkpoint.family`. title, examples, picture, text, fused: for the table in docs/families.md.
    marks: what in a directory tells, in words; `recognises` looks for it.
    weights: patterns of the files with weights, the safe format first; a hub is asked for one after the other.
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
