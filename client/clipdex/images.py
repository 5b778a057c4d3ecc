"""A picture becomes pixels: decoded to RGB, resized and cropped to what a model takes.

The resize equals the Hugging Face PIL image processor byte for byte; docs/preprocessing.md has the rules
for every kind of picture.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from clipdex.card import ImageSpec
from clipdex.errors import ClipdexError, ImageError, InvalidArgument

__all__ = ["FORMATS", "MAX_PIXELS", "ImageSource", "Pixels", "open_image", "to_pixels"]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]"
Pixels: TypeAlias = "npt.NDArray[np.uint8]"

# Asked for by name, so that Pillow never tries a decoder that runs another program (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

# Pillow's own line between a large photograph and an attack: 179 million pixels, 512 MiB as RGB.
MAX_PIXELS = 178_956_970

WHITE = (255, 255, 255)

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# A 1 × 5,000 picture would grow to 224 × 1,120,000 before its centre is cut out. Past this many crops'
# length only the middle is resized.
_LONGEST_RESIZE = 32


def open_image(
    source: ImageSource,
    *,
    fill: tuple[int, int, int] = WHITE,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode a picture to an RGB image, upright, with transparency laid over `fill`.

    Args:
        source: a path, the bytes of a picture file, a Pillow image, or an array of dtype uint8 and
            shape (H, W), (H, W, 3) or (H, W, 4).
        fill: the RGB under transparent pixels.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        ImageError: it cannot be decoded; `reason` says why in one word.
        InvalidArgument: `source` is of none of these kinds.
    """
    if isinstance(source, Image.Image):
        return _decode(source, "the image given", fill, max_pixels)
    if isinstance(source, np.ndarray):
        return _decode(_from_array(source), "the array given", fill, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode_bytes(bytes(source), "the bytes given", fill, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _decode_bytes(_read(source), os.fspath(source), fill, max_pixels)
    raise InvalidArgument(
        f"a picture is a path, bytes, a Pillow image or a uint8 array, not {type(source).__name__}"
    )


def to_pixels(image: Image.Image, spec: ImageSpec) -> Pixels:
    """Resize and crop an RGB image: -> uint8 (size, size, 3), not normalised.

    The shorter side becomes `spec.resize_to`, the longer one is rounded down, and the centre is cut out:
    the arithmetic of Hugging Face's CLIPImageProcessor.
    """
    resample = _FILTERS[spec.interpolation]
    width, height = image.size
    short, long = min(width, height), max(width, height)
    long_resized = int(spec.resize_to * long / short)
    if long_resized > _LONGEST_RESIZE * spec.size:
        image = _middle(image, spec.size * 2 * short / spec.resize_to)
        width, height = image.size
        long_resized = int(spec.resize_to * max(width, height) / short)
    new_size = (spec.resize_to, long_resized) if width <= height else (long_resized, spec.resize_to)
    if image.size != new_size:
        image = image.resize(new_size, resample=resample)
    return _center_crop(np.asarray(image), spec.size)


def _middle(image: Image.Image, wanted: float) -> Image.Image:
    """The middle of a very long picture, `wanted` source pixels along its longer side."""
    width, height = image.size
    keep = max(1, math.ceil(wanted))
    if width > height:
        left = (width - keep) // 2
        return image.crop((left, 0, left + keep, height))
    top = (height - keep) // 2
    return image.crop((0, top, width, top + keep))


def _center_crop(pixels: Pixels, size: int) -> Pixels:
    """uint8 (H, W, 3) -> (size, size, 3); black around a picture smaller than the crop."""
    height, width = pixels.shape[:2]
    if height < size or width < size:
        # Hugging Face pads to the crop, the odd pixel above and to the left.
        tall, wide = max(height, size), max(width, size)
        padded = np.zeros((tall, wide, 3), dtype=np.uint8)
        top, left = math.ceil((tall - height) / 2), math.ceil((wide - width) / 2)
        padded[top : top + height, left : left + width] = pixels
        pixels, height, width = padded, tall, wide
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as exc:
        raise ImageError(f"{os.fspath(path)}: there is no such file", reason="vanished") from exc
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise ImageError(f"{os.fspath(path)}: cannot be read: {why}", reason="unreadable") from exc


def _decode_bytes(data: bytes, where: str, fill: tuple[int, int, int], max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError(f"{where}: the file is empty", reason="empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as exc:
        known = ", ".join(FORMATS)
        raise ImageError(f"{where}: not a picture in a known format ({known})", reason="not_a_picture") from exc
    except Exception as exc:
        raise _translated(exc, where) from exc
    with image:
        return _decode(image, where, fill, max_pixels)


def _decode(image: Image.Image, where: str, fill: tuple[int, int, int], max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{where}: {width} × {height} pixels are more than the limit of {max_pixels:,}",
            reason="too_many_pixels",
        )
    if width == 0 or height == 0:
        raise ImageError(f"{where}: the picture is {width} × {height} pixels", reason="empty")
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _to_rgb(upright, fill)
    except ClipdexError:
        raise
    # Malformed files make Pillow raise nearly anything: ValueError, SyntaxError, KeyError, struct.error, ...
    except Exception as exc:
        raise _translated(exc, where) from exc


def _translated(exc: Exception, where: str) -> ImageError:
    if isinstance(exc, Image.DecompressionBombError):
        return ImageError(f"{where}: {exc}", reason="too_many_pixels")
    if isinstance(exc, MemoryError):
        return ImageError(f"{where}: not enough memory to decode it", reason="out_of_memory")
    text = str(exc) or type(exc).__name__
    reason = "truncated" if "truncated" in text.lower() else "broken"
    return ImageError(f"{where}: cannot be decoded: {text}", reason=reason)


def _to_rgb(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _grey_to_8_bits(image).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        over = Image.new("RGBA", image.size, (*fill, 255))
        return Image.alpha_composite(over, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale greys of more than 8 bits: Pillow's own conversion would clip them to white."""
    values = np.asarray(image, dtype=np.float64)
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = float(finite.max(initial=0.0))
    if image.mode == "F" and top <= 1.0:
        white = 1.0
    elif top <= 255 and image.mode in ("F", "I"):
        white = 255.0
    elif top <= 65535:
        white = 65535.0
    else:
        white = top
    eight = np.clip(np.rint(finite * (255.0 / white)), 0, 255).astype(np.uint8)
    return Image.fromarray(eight)


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    shape: Sequence[int] = array.shape
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (3, 4))):
        raise InvalidArgument(
            "an array is a picture if its dtype is uint8 and its shape (H, W), (H, W, 3) or (H, W, 4); "
            f"this one is {array.dtype} {tuple(shape)}"
        )
    if 0 in shape:
        raise ImageError(f"the array given: its shape is {tuple(shape)}", reason="empty")
    return Image.fromarray(array)
