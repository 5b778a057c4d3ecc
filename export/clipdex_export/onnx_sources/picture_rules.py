"""Translation of a source's preprocessing settings to the card's ImageSpec."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

from clipdex.base.errors import CheckpointError
from clipdex.model.card import ImageSpec
from clipdex_export import preprocessing
from clipdex_export.onnx_sources.layout import Style

__all__ = ["OPEN_CLIP_DEFAULTS", "image_spec"]

_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
# What a file does not say. Old files of CLIP's processor leave out the scaling.
_ALL = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 3}
_CLIP = {**_ALL, "do_center_crop": True, "image_mean": _CLIP_MEAN, "image_std": _CLIP_STD}
_SQUASHED = {**_ALL, "do_center_crop": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_PROCESSORS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "CLIPImageProcessor": _CLIP,
        "CLIPImageProcessorFast": _CLIP,
        "CLIPFeatureExtractor": _CLIP,
        "SiglipImageProcessor": _SQUASHED,
        "SiglipImageProcessorFast": _SQUASHED,
    }
)
OPEN_CLIP_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "mean": _CLIP_MEAN,
        "std": _CLIP_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
        "mode": "RGB",
    }
)
_CHOICES = {
    "interpolation": ("bicubic", "bilinear"),
    "resize_mode": ("shortest", "squash", "longest"),
    "mode": ("RGB",),
}


def image_spec(settings: Mapping[str, Any], style: Style, side: int | None, where: str) -> ImageSpec:
    """Translate a preprocessor_config.json or a preprocess_cfg.json.

    Args:
        settings: as in the file.
        style: whose file it is.
        side: of the pictures that the graph takes, if it fixes that.
        where: the file's name for messages.

    Raises:
        CheckpointError: it has a setting that the card cannot express, or implausible values.
    """
    try:
        spec = _open_clip(settings, where) if style == "open_clip" else _hugging_face(settings, side, where)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CheckpointError(f"{where} is not usable: {type(exc).__name__}: {exc}") from exc
    if side is not None and spec.size != side:
        raise CheckpointError(
            f"{where} makes pictures of {spec.size} pixels, but the image tower takes {side}: they do not belong "
            "together"
        )
    for name, values, least in (("mean", spec.mean, 0.0), ("std", spec.std, 1e-3)):
        if not all(least <= value <= 1 for value in values):
            raise CheckpointError(
                f"{where}: the {name} is {list(values)}; expected numbers from {least:g} to 1, for pixels 0 to 1"
            )
    return spec


def _open_clip(settings: Mapping[str, Any], where: str) -> ImageSpec:
    stated = {**OPEN_CLIP_DEFAULTS, **settings}
    for name, known in _CHOICES.items():
        if stated[name] not in known:
            raise CheckpointError(f"{where}: {name} is {stated[name]!r}; clipdex knows {' and '.join(known)}")
    if "size" not in stated:
        raise CheckpointError(f"{where} does not say the size of pictures")
    return preprocessing.open_clip_spec(stated, where)


def _hugging_face(settings: Mapping[str, Any], side: int | None, where: str) -> ImageSpec:
    kind = settings.get("image_processor_type", settings.get("feature_extractor_type", "CLIPImageProcessor"))
    if kind not in _PROCESSORS:
        raise CheckpointError(f"{where} is for a {kind}; clipdex knows {', '.join(_PROCESSORS)}")
    stated = {**_PROCESSORS[kind], **settings}
    if "size" not in stated:
        raise CheckpointError(f"{where} does not say the size of pictures")
    crops = bool(stated["do_center_crop"])
    # Old files have bare numbers.
    if isinstance(stated["size"], int):
        stated["size"] = {"shortest_edge": stated["size"]} if crops else _square(stated["size"])
    stated["crop_size"] = crop = stated.get("crop_size", stated["size"])
    if isinstance(crop, int):
        stated["crop_size"] = _square(crop)
    processor = SimpleNamespace(**stated)
    if crops:
        return preprocessing.image_spec(processor, side or int(stated["crop_size"]["height"]))
    return preprocessing.squash_spec(processor, side or int(stated["size"]["height"]))


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}
