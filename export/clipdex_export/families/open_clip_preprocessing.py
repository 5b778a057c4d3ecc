"""OpenCLIP's preprocessing of pictures, translated to the fields of the card."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from clipdex.base.errors import CheckpointError
from clipdex_export.preprocessing import open_clip_spec as image_spec

__all__ = ["CONFIG", "OPEN_CLIP_PREFIX", "common_preprocessing", "image_spec"]

OPEN_CLIP_PREFIX = "open_clip:"
CONFIG = "open_clip_config.json"


def common_preprocessing(open_clip: ModuleType, architecture: str, file: Path) -> dict[str, Any]:
    """Return the preprocessing of all published weights of an architecture; OpenCLIP's defaults if there are none.

    Raises:
        CheckpointError: published weights differ in it, and the file does not say which applies.
    """
    ways: dict[str, Any] = {}
    for tag in open_clip.list_pretrained_tags_by_model(architecture):
        settings = open_clip.get_pretrained_cfg(architecture, tag)
        way = open_clip.transform.merge_preprocess_dict({}, settings)
        if way not in ways.values():
            ways[tag] = way
    if len(ways) > 1:
        named = " or ".join(f"{OPEN_CLIP_PREFIX}{architecture}/{tag}/FILE" for tag in ways)
        raise CheckpointError(
            f"OpenCLIP's weights of {architecture} use {len(ways)} kinds of preprocessing, and {file} does not "
            f"say which: name a tag with the same preprocessing, as in {named}, or give a directory with {CONFIG}"
        )
    return next(iter(ways.values()), {})
