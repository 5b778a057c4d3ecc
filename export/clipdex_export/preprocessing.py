"""Translation of a checkpoint's image processor to the card's ImageSpec; unsupported settings are named.

The gate then compares pixels byte for byte, so a wrong translation is caught even if its cosine is high.
"""

from __future__ import annotations

import math
from typing import Any

from clipdex.base.errors import CardError, CheckpointError
from clipdex.model.card import ImageSpec
from clipdex_export.weights import one_line

__all__ = ["FILL", "image_spec", "open_clip_spec", "squash_spec"]

_INTERPOLATIONS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers

# OpenCLIP's resize_mode -> the card's resize and crop.
_RESIZES = {
    "shortest": ("shortest_edge", "center_half_even"),
    "squash": ("squash", "none"),
    "longest": ("longest_edge", "pad"),
}

# The colour behind transparent pixels. Hugging Face has no rule: it drops alpha and shows whatever colour was
# hidden, most often black. White is the usual background of cut-outs.
FILL = (255, 255, 255)


def image_spec(processor: Any, image_size: int) -> ImageSpec:
    """Convert a transformers CLIPImageProcessor to an ImageSpec.

    Args:
        processor: loaded by transformers, which reads old files with bare integers as well as new ones.
        image_size: the vision tower's input size, from the model's config.

    Raises:
        CheckpointError: it has a setting that the card cannot express, named in the message.
    """
    _require(processor.do_resize, "do_resize", processor.do_resize, "true")
    _require(processor.do_center_crop, "do_center_crop", processor.do_center_crop, "true")
    size = _set_keys(processor.size)
    _require(set(size) == {"shortest_edge"}, "size", size, 'a number or {"shortest_edge": number}')
    crop = _set_keys(processor.crop_size)
    _require(set(crop) == {"height", "width"} and crop["height"] == crop["width"], "crop_size", crop, "a square")
    _require(crop["height"] == image_size, "crop_size", crop, f"{image_size}, the image_size of the vision tower")
    _require(
        size["shortest_edge"] >= image_size, "size", size, f"at least the crop, {image_size}, so nothing is padded"
    )
    return _spec(processor, image_size, size["shortest_edge"], "shortest_edge", "center")


def squash_spec(processor: Any, image_size: int) -> ImageSpec:
    """Convert a transformers processor that scales both sides to one size without a crop, as SigLIP's.

    Raises:
        CheckpointError: it has a setting that the card cannot express, named in the message.
    """
    _require(processor.do_resize, "do_resize", processor.do_resize, "true")
    _require(not getattr(processor, "do_center_crop", None), "do_center_crop", True, "none or false")
    size = _set_keys(processor.size)
    square = {"height": image_size, "width": image_size}
    _require(size == square, "size", size, f"{square}, the image_size of the vision tower")
    return _spec(processor, image_size, image_size, "squash", "none")


def open_clip_spec(preprocess: dict[str, Any], where: object) -> ImageSpec:
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


def _spec(processor: Any, size: int, resize_to: int, resize: str, crop: str) -> ImageSpec:
    """Make the ImageSpec from the settings common to all processors."""
    _require(processor.do_rescale, "do_rescale", processor.do_rescale, "true")
    _require(
        math.isclose(processor.rescale_factor, 1 / 255, rel_tol=1e-6),
        "rescale_factor",
        processor.rescale_factor,
        "1/255",
    )
    _require(not getattr(processor, "do_pad", None), "do_pad", True, "none or false")
    resample = int(processor.resample) if processor.resample is not None else None
    _require(resample in _INTERPOLATIONS, "resample", resample, "1 (lanczos), 2 (bilinear) or 3 (bicubic)")
    assert resample is not None
    normalize = processor.do_normalize
    try:
        return ImageSpec(
            size=size,
            resize_to=resize_to,
            resize=resize,
            interpolation=_INTERPOLATIONS[resample],
            crop=crop,
            fill=FILL,
            mean=_three(processor.image_mean) if normalize else (0.0, 0.0, 0.0),
            std=_three(processor.image_std) if normalize else (1.0, 1.0, 1.0),
        )
    except (CardError, TypeError, ValueError) as exc:
        raise CheckpointError(f"the preprocessor's image_mean or image_std is not usable: {exc}") from exc


def _set_keys(size: Any) -> dict[str, int]:
    """Reduce transformers' SizeDict to the keys that are set."""
    return {key: int(value) for key, value in dict(size).items() if value is not None}


def _three(values: Any) -> tuple[float, float, float]:
    if isinstance(values, (int, float)):
        values = [values] * 3
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _require(ok: object, field: str, found: object, expected: str) -> None:
    if not ok:
        raise CheckpointError(f"the preprocessor's {field} is {found}; clipdex supports only {expected}")
