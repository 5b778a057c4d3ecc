"""OpenCLIP's preprocessing of pictures, translated to the fields of the card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from clipdex.base.errors import CardError, CheckpointError
from clipdex.model.card import ImageSpec
from clipdex_export.preprocessing import FILL
from clipdex_export.weights import one_line

__all__ = ["CONFIG", "OPEN_CLIP_PREFIX", "common_preprocessing", "image_spec"]

OPEN_CLIP_PREFIX = "open_clip:"
CONFIG = "open_clip_config.json"
_RESIZES = {
    "shortest": ("shortest_edge", "center_half_even"),
    "squash": ("squash", "none"),
    "longest": ("longest_edge", "pad"),
}


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


def image_spec(preprocess: dict[str, Any], where: object) -> ImageSpec:
    """Convert OpenCLIP's PreprocessCfg, as a dict, to an ImageSpec.

    Raises:
        CheckpointError: it has a setting that the card cannot express, named in the message.
    """
    size = preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise CheckpointError(f"{where}: the image tower takes {height} × {width} pixels; expected a square")
    resize, crop = _RESIZES[preprocess["resize_mode"]]
    if crop == "pad" and preprocess["fill_color"] != 0:
        raise CheckpointError(f"{where}: the preprocessor's fill_color is not 0; clipdex pads with black")
    try:
        return ImageSpec(
            size=height,
            resize_to=height,
            resize=resize,
            interpolation="bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic",
            crop=crop,
            fill=FILL,
            mean=_three(preprocess["mean"]),
            std=_three(preprocess["std"]),
        )
    except (CardError, TypeError, ValueError) as exc:
        raise CheckpointError(f"{where}: the preprocessing is not usable: {one_line(exc)}") from exc


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values if isinstance(values, Sequence) else [values] * 3
    return float(red), float(green), float(blue)
