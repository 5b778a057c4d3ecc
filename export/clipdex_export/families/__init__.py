"""The families of checkpoints that can be exported, one adapter each, and the detection of a source's family.

Not public: docs/design.md lists what is.
"""

from __future__ import annotations

from pathlib import Path

from clipdex.base.errors import CheckpointError
from clipdex_export.checkpoint import Checkpoint
from clipdex_export.families.family import Family
from clipdex_export.families.hf_clip import HF_CLIP
from clipdex_export.families.open_clip import OPEN_CLIP, OPEN_CLIP_PREFIX, load_open_clip_named
from clipdex_export.families.pair import PAIR, PAIR_PREFIX, load_pair, text_family_of
from clipdex_export.families.siglip import SIGLIP
from clipdex_export.families.st_clip import ST_CLIP
from clipdex_export.hub import fetch_weights, find_checkpoint

__all__ = ["FAMILIES", "Family", "family_of", "load_checkpoint"]

# In the order in which they are tried. LAION's repositories have a model in two formats: the first match counts.
FAMILIES: tuple[Family, ...] = (HF_CLIP, SIGLIP, OPEN_CLIP, ST_CLIP, PAIR)


def load_checkpoint(source: str, *, revision: str | None = None, allow_random: bool = False) -> Checkpoint:
    """Load a local directory, a hub id, `open_clip:ARCHITECTURE/WEIGHTS` or `pair:IMAGE+TEXT`, in float32.

    Raises:
        CheckpointError: it is missing, unreadable, of an unknown kind, or its weights are missing or do not have
            the shapes that its config states.
    """
    if source.startswith((OPEN_CLIP_PREFIX, PAIR_PREFIX)):
        if revision is not None:
            raise CheckpointError(f"{source} names its weights: a revision ({revision}) is for hub ids only")
        if source.startswith(PAIR_PREFIX):
            return load_pair(source, allow_random, lambda image: load_checkpoint(image, allow_random=allow_random))
        return load_open_clip_named(source, allow_random)
    files = find_checkpoint(source, revision)
    family = family_of(files.directory)
    fetch_weights(files, family.weights)
    return family.load(source, files, allow_random)


def family_of(directory: Path) -> Family:
    """Return the family of a checkpoint directory.

    Raises:
        CheckpointError: it belongs to none.
    """
    for family in FAMILIES:
        if family.recognises(directory):
            return family
    if text_family_of(directory) is not None:
        raise CheckpointError(
            f"{directory} is only a text tower: export it with the image tower that it was trained for, as in "
            f"pair:sentence-transformers/clip-ViT-B-32+{directory}"
        )
    marks = "; ".join(family.marks for family in FAMILIES)
    raise CheckpointError(f"{directory} is not a checkpoint of a known kind: looked for {marks}")
