"""Preprocessing of pictures: decoded to RGB, resized and cropped to a model's input size.

The resize matches the model's own preprocessing with Pillow byte for byte; docs/preprocessing.md has the rules for
every kind of picture.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdex.base.arrays import Pixels
from clipdex.base.errors import ClipdexError, ImageError, InvalidArgument
from clipdex.base.limits import MAX_PIXELS
from clipdex.base.open_files import is_open_file, name_of, read_open
from clipdex.base.regular_files import open_picture
from clipdex.model.card import ImageSpec
from clipdex.model.formats.decoders import FORMATS, OwnPicture, open_header, open_ours, refused
from clipdex.model.formats.deep import grey_to_rgb
from clipdex.model.formats.flatten import over, with_alpha
from clipdex.model.formats.icc import IccUse, check_icc, convert_to_srgb
from clipdex.model.formats.jpeg import whole_without_end
from clipdex.model.formats.png import deep_colours, scale_key, without_remarks

__all__ = [
    "FORMATS",
    "ImageSource",
    "center_crop",
    "file_bytes",
    "open_image",
    "require_readable",
    "require_several",
    "resized",
    "to_pixels",
]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[np.uint8]"

WHITE = (255, 255, 255)

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_TIFF_PALETTE = 320
# Where Pillow keeps a picture's XMP, and alone looks for an orientation if EXIF has none.
_XMP = ("xmp", "XML:com.adobe.xmp")

# A 1 × 5,000 picture would grow to 224 × 1,120,000 before its centre is cut out. Beyond this multiple of the
# crop's size, only the middle is resized.
_LONGEST_RESIZE = 32


@dataclass(frozen=True)
class _Rules:
    """Decoding options: see `open_image`."""

    fill: tuple[int, int, int]
    max_pixels: int
    icc: IccUse
    least_side: int | None = None


def open_image(
    source: ImageSource,
    *,
    fill: tuple[int, int, int] = WHITE,
    max_pixels: int = MAX_PIXELS,
    icc: IccUse = "off",
    least_side: int | None = None,
) -> Image.Image:
    """Decode a picture to an RGB image, upright, with transparency laid over `fill`.

    Args:
        source: a path, the bytes of a picture file, a file opened in binary mode or `io.BytesIO` (read from its
            start), a Pillow image, or an array of dtype uint8 and shape (H, W), (H, W, 3) or (H, W, 4).
        fill: the RGB behind transparent pixels.
        max_pixels: larger pictures are rejected before they are decoded.
        icc: "srgb" converts colours by the picture's embedded profile, if any; "off" takes them as they are, as
            the models' own preprocessing does.
        least_side: a JPEG may be decoded smaller than it is, for speed, if its longer side keeps this many pixels.

    Raises:
        ImageError: it cannot be decoded; `reason` says why in one word.
        InvalidArgument: `source` is none of these.
    """
    rules = _Rules(fill, max_pixels, check_icc(icc), least_side)
    if isinstance(source, Image.Image):
        return _decode(source, "the image given", rules)
    if isinstance(source, np.ndarray):
        return _decode(_from_array(source), "the array given", rules)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode_bytes(bytes(source), "the bytes given", rules)
    if isinstance(source, (str, os.PathLike)):
        return _decode_bytes(_read(source), os.fspath(source), rules)
    if is_open_file(source):
        return _decode_bytes(read_open(source), name_of(source), rules)
    raise InvalidArgument(
        f"the picture is {type(source).__name__}; expected a path, bytes, an open file, a Pillow image or a "
        "uint8 array"
    )


def file_bytes(source: ImageSource) -> bytes | None:
    """Read the file behind a picture as `open_image` takes it; None for one that is already decoded.

    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, (str, os.PathLike)):
        return _read(source)
    return read_open(source) if is_open_file(source) else None


def require_several(images: Iterable[ImageSource]) -> None:
    """Raise InvalidArgument unless `images` is several pictures; a single one may be iterable too."""
    lone = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)) or is_open_file(
        images
    )
    if lone or (isinstance(images, np.ndarray) and images.ndim in (0, 2, 3)):
        shape = f" of shape {images.shape}" if isinstance(images, np.ndarray) else ""
        raise InvalidArgument(
            f"images is a single {type(images).__name__}{shape}; expected a list, or an array (N, H, W, 3): "
            "for one picture give [picture]"
        )
    if not isinstance(images, Iterable):
        raise InvalidArgument(f"images is {type(images).__name__}; expected a list of pictures")


def to_pixels(image: Image.Image, spec: ImageSpec) -> Pixels:
    """Resize and crop an RGB image as the model's own preprocessing does -> uint8 (size, size, 3)."""
    return center_crop(resized(image, spec), spec)


def resized(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Do the first half of `to_pixels`: resize the picture (of a very long one, its middle), without the crop."""
    if spec.resize == "squash":
        size = (spec.size, spec.size)
    elif spec.resize == "longest_edge":
        # OpenCLIP's arithmetic, in its order: the last bit of the ratio can decide how a half is rounded.
        ratio = max(side / spec.size for side in image.size)
        size = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))
    else:
        image, size = _shortest_edge(image, spec)
    return image if image.size == size else image.resize(size, resample=_FILTERS[spec.interpolation])


def _shortest_edge(image: Image.Image, spec: ImageSpec) -> tuple[Image.Image, tuple[int, int]]:
    """Return the picture, or its middle if it is very long, and the (width, height) to resize it to.

    The shorter side becomes `spec.resize_to`, the longer one is rounded down: the arithmetic of Hugging Face's
    CLIPImageProcessor and of torchvision.
    """
    width, height = image.size
    short, long = min(width, height), max(width, height)
    long_resized = int(spec.resize_to * long / short)
    if long_resized > _LONGEST_RESIZE * spec.size:
        image = _middle(image, spec.size * 2 * short / spec.resize_to)
        width, height = image.size
        long_resized = int(spec.resize_to * max(width, height) / short)
    return image, (spec.resize_to, long_resized) if width <= height else (long_resized, spec.resize_to)


def _middle(image: Image.Image, wanted: float) -> Image.Image:
    """Cut out the middle of a very long picture, `wanted` source pixels along its longer side."""
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


def require_readable(path: str | os.PathLike[str]) -> None:
    """Raise the ImageError of a path that cannot be opened as a file."""
    with _opened(path):
        pass


def _read(path: str | os.PathLike[str]) -> bytes:
    with _opened(path) as file:
        return file.read()


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open the file of a picture for the block. Raises ImageError, also for what the block raises in reading."""
    try:
        with open_picture(Path(path)) as file:
            yield file
    except ImageError as exc:
        raise ImageError(f"{os.fspath(path)}: {exc}", reason=exc.reason) from None
    except FileNotFoundError as exc:
        raise ImageError(f"{os.fspath(path)}: there is no such file", reason="vanished") from exc
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise ImageError(f"{os.fspath(path)}: cannot be read: {why}", reason="unreadable") from exc


def _decode_bytes(data: bytes, where: str, rules: _Rules) -> Image.Image:
    if not data:
        raise ImageError(f"{where}: the file is empty", reason="empty")
    try:
        return _decode_file(data, where, rules)
    except ImageError as exc:
        mended = _mended(data, exc.reason)
        if mended is None:
            raise
    return _decode_file(mended, where, rules)


def _mended(data: bytes, reason: str) -> bytes | None:
    """Return the file without the fault for which it was refused, if that affects no pixel, else None."""
    if reason not in ("broken", "truncated"):
        return None
    plain = without_remarks(data)
    if plain != data:
        return plain
    return whole_without_end(data) if reason == "truncated" else None


def _decode_file(data: bytes, where: str, rules: _Rules) -> Image.Image:
    ours = open_ours(data, where)
    if ours is not None:
        return _decode_ours(ours, where, rules, data)
    with open_header(data, where) as image:
        for name in _XMP:
            image.info.pop(name, None)
        scale_key(image, data)
        _scale_palette(image)
        if rules.least_side is not None and image.format == "JPEG":
            _require_size(image.size, where, rules.max_pixels)
            scale = min(1.0, rules.least_side / max(image.size))
            width, height = (max(1, math.ceil(scale * side)) for side in image.size)
            image.draft(None, (width, height))
        decoded = _decode(image, where, rules, data)
        if decoded is not image:
            image.close()
        return decoded


def _decode_ours(picture: OwnPicture, where: str, rules: _Rules, data: bytes) -> Image.Image:
    _require_size(picture.size, where, rules.max_pixels)
    try:
        image = picture.to_rgb(rules.fill)
        if rules.icc == "srgb":
            image = convert_to_srgb(image, picture.profile)
        return _upright(image.convert("RGB"), picture.orientation)
    except ClipdexError:
        raise
    except Exception as exc:
        raise refused(exc, data, where, picture.size[0] * picture.size[1]) from exc


def _make_room(image: Image.Image) -> None:
    """Allocate a large TIFF's image here: Pillow would apply its own limit, which is below ours."""
    if image.format == "TIFF" and image.width * image.height > (Image.MAX_IMAGE_PIXELS or MAX_PIXELS):
        image.im = Image.new(image.mode, getattr(image, "_tile_size", image.size)).im


def _scale_palette(image: Image.Image) -> None:
    """Fix a TIFF's palette: it has 16 bits, but some programs write 8-bit values, which Pillow shows as black."""
    colours = getattr(image, "tag_v2", {}).get(_TIFF_PALETTE, ())
    if image.format == "TIFF" and image.mode in ("P", "PA") and 0 < max(colours, default=0) <= 255:
        count = len(colours) // 3
        image.putpalette(bytes(value for i in range(count) for value in colours[i::count]))


def _decode(image: Image.Image, where: str, rules: _Rules, data: bytes = b"") -> Image.Image:
    try:
        _require_size(image.size, where, rules.max_pixels)
        _make_room(image)
        image.load()
        _require_size(image.size, where, rules.max_pixels)  # it may differ from the header's
        orientation = _orientation(image)
        rgb = deep_colours(image, data, rules.fill)
        if rules.icc == "srgb":
            profile = image.info.get("icc_profile")
            rgb = (
                _in_srgb(image, profile, rules.fill, ours=bool(data))
                if rgb is None
                else convert_to_srgb(rgb, profile)
            )
        elif rgb is None:
            rgb = _to_rgb(image, rules.fill)
        return _upright(rgb, orientation)
    except ClipdexError:
        raise
    # Malformed files make Pillow raise nearly anything: ValueError, SyntaxError, KeyError, struct.error, ...
    except Exception as exc:
        raise refused(exc, data, where, image.width * image.height) from exc


def _require_size(size: tuple[int, int], where: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{where}: {width} × {height} pixels exceed the limit of {max_pixels:,}",
            reason="too_many_pixels",
        )
    if width == 0 or height == 0:
        raise ImageError(f"{where}: the picture is {width} × {height} pixels", reason="empty")


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 if there is none or it cannot be read."""
    try:
        if any(name in image.info for name in _XMP):
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
        else:
            exif = image.getexif()
        value = exif.get(_EXIF_ORIENTATION)
    except MemoryError:
        raise
    except Exception:  # malformed EXIF does not affect the pixels
        return 1
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    # Not ImageOps.exif_transpose: it copies even upright pictures, and fails if EXIF is broken.
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_rgb(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    transparent = "transparency" in image.info
    if image.mode == "RGB" and not transparent:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return grey_to_rgb(image, fill)
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if transparent or image.mode in _WITH_ALPHA:
        return over(image, fill)
    return image.convert("RGB")


def _in_srgb(image: Image.Image, profile: bytes | None, fill: tuple[int, int, int], *, ours: bool) -> Image.Image:
    """Convert like `_to_rgb`, but to sRGB by the picture's profile. ours: the image may be changed."""
    if not profile or image.mode == "LAB":
        return _to_rgb(image, fill)
    transparent = "transparency" in image.info or image.mode in _WITH_ALPHA
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return convert_to_srgb(grey_to_rgb(image, fill), profile)
    plain = image
    if image.mode not in ("RGB", "L", "CMYK") or transparent:
        plain = with_alpha(image) if transparent else image.convert("RGB")
    converted = convert_to_srgb(plain, profile, copy=not ours and plain is image)
    return over(converted, fill) if transparent else converted.convert("RGB")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    """Convert CIE L*a*b* with white point D50, as in TIFF, to sRGB."""
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    rgb = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert rgb is not None  # None only for a transform in place
    return rgb


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    shape: Sequence[int] = array.shape
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (3, 4))):
        raise InvalidArgument(
            f"the array is {array.dtype} {tuple(shape)}; expected a picture of dtype uint8 and shape "
            "(H, W), (H, W, 3) or (H, W, 4)"
        )
    if 0 in shape:
        raise ImageError(f"the array given: its shape is {tuple(shape)}", reason="empty")
    return Image.fromarray(array)
