"""Resizing and cropping a decoded picture to a model's input size, as the model's own preprocessing does."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from PIL import Image

from clipdex.base.arrays import Pixels
from clipdex.model.card import ImageSpec

__all__ = ["Box", "center_crop", "least_size", "resized", "resized_reduced", "to_pixels"]

# (left, top, right, bottom) in pixels, which may be fractions.
Box: TypeAlias = "tuple[float, float, float, float]"

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# A 1 × 5,000 picture would grow to 224 × 1,120,000 before its centre is cut out. Beyond this multiple of the
# crop's size, only the middle is resized.
_LONGEST_RESIZE = 32

# A picture reduced while it is decoded keeps this many pixels for each of the resized picture, in both directions.
_REDUCED_KEEPS = 2


def to_pixels(image: Image.Image, spec: ImageSpec) -> Pixels:
    """Resize and crop an RGB image as the model's own preprocessing does -> uint8 (size, size, 3)."""
    return center_crop(resized(image, spec), spec)


def resized(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Do the first half of `to_pixels`: resize the picture (of a very long one, its middle), without the crop."""
    image = _middle(image, spec)
    size = _size(image.size, spec)
    return image if image.size == size else image.resize(size, resample=_FILTERS[spec.interpolation])


def resized_reduced(image: Image.Image, spec: ImageSpec, size: tuple[int, int], box: Box) -> Image.Image:
    """Do as `resized` for a picture that was reduced as it was decoded.

    Args:
        size: its (width, height) before that, by which the size of the result is computed.
        box: the part of `image` that it fills: its last pixels may be only partly its own.
    """
    return image.resize(_size(size, spec), resample=_FILTERS[spec.interpolation], box=box)


def least_size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Return the (width, height) that a picture of this size must keep where it is reduced as it is decoded."""
    if _wanted_middle(size, spec) is not None:
        return size
    width, height = _size(size, spec)
    return _REDUCED_KEEPS * width, _REDUCED_KEEPS * height


def _size(size: tuple[int, int], spec: ImageSpec) -> tuple[int, int]:
    """Return the (width, height) to which a picture of this size is resized."""
    width, height = size
    if spec.resize == "squash":
        return spec.size, spec.size
    if spec.resize == "longest_edge":
        # OpenCLIP's arithmetic, in its order: the last bit of the ratio can decide how a half is rounded.
        ratio = max(side / spec.size for side in size)
        return max(1, round(width / ratio)), max(1, round(height / ratio))
    # The shorter side becomes `spec.resize_to`, the longer one is rounded down: the arithmetic of Hugging Face's
    # CLIPImageProcessor and of torchvision.
    long_resized = int(spec.resize_to * max(size) / min(size))
    return (spec.resize_to, long_resized) if width <= height else (long_resized, spec.resize_to)


def _wanted_middle(size: tuple[int, int], spec: ImageSpec) -> float | None:
    """Return how many pixels of its longer side are resized of a very long picture; None for others."""
    if spec.resize not in ("squash", "longest_edge"):
        short, long = min(size), max(size)
        if int(spec.resize_to * long / short) > _LONGEST_RESIZE * spec.size:
            return spec.size * 2 * short / spec.resize_to
    return None


def _middle(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Cut out the middle of a very long picture."""
    wanted = _wanted_middle(image.size, spec)
    if wanted is None:
        return image
    width, height = image.size
    keep = max(1, math.ceil(wanted))
    if width > height:
        left = (width - keep) // 2
        return image.crop((left, 0, left + keep, height))
    top = (height - keep) // 2
    return image.crop((0, top, width, top + keep))


def center_crop(image: Image.Image, spec: ImageSpec) -> Pixels:
    """Do the second half of `to_pixels`: crop -> uint8 (size, size, 3), padded with black if it is too small."""
    pixels, size = np.asarray(image), spec.size
    height, width = pixels.shape[:2]
    if height < size or width < size:
        tall, wide = max(height, size), max(width, size)
        padded = np.zeros((tall, wide, 3), dtype=np.uint8)
        # Hugging Face puts the odd pixel above and to the left, OpenCLIP below and to the right.
        odd = 0 if spec.crop == "pad" else 1
        top, left = (tall - height + odd) // 2, (wide - width + odd) // 2
        padded[top : top + height, left : left + width] = pixels
        pixels, height, width = padded, tall, wide
    if spec.crop == "center_half_even":
        top, left = round((height - size) / 2), round((width - size) / 2)
    else:
        top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])
