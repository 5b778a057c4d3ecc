"""Preprocessing of pictures: decoded to RGB, resized and cropped to a model's input size.

The resize matches the model's own preprocessing with Pillow byte for byte; docs/preprocessing.md has the rules for
every kind of picture.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
from clipdex.model.picture_rules import EXACT, PictureRules
from clipdex.model.resizing import Box, center_crop, least_size, resized, resized_reduced, to_pixels

__all__ = [
    "FORMATS",
    "ImageSource",
    "Opened",
    "center_crop",
    "file_bytes",
    "model_pixels",
    "open_for_model",
    "open_image",
    "require_readable",
    "require_several",
    "resized",
    "to_pixels",
]

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | npt.NDArray[np.uint8]"

WHITE = (255, 255, 255)

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
# The same as a swap of the axes, which comes first, and mirrors.
_ON_ITS_SIDE, _FROM_THE_RIGHT, _FROM_BELOW = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
# A photograph with others in its file, as telephones make them, is an MPO.
_JPEGS = ("JPEG", "MPO")

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_TIFF_PALETTE = 320
# Where Pillow keeps a picture's XMP, and alone looks for an orientation if EXIF has none.
_XMP = ("xmp", "XML:com.adobe.xmp")


# From a JPEG's (width, height), the size that it must keep if it is decoded smaller than it is.
_Least: TypeAlias = "Callable[[tuple[int, int]], tuple[int, int]]"


@dataclass(frozen=True)
class _Rules:
    """Decoding options: see `open_image`."""

    fill: tuple[int, int, int]
    max_pixels: int
    icc: IccUse
    least: _Least | None = None


@dataclass(frozen=True)
class Opened:
    """A decoded picture: RGB, upright.

    size: its (width, height) as shown; `image` is smaller if it was reduced as it was decoded, and the picture
    then fills `box` of it.
    """

    image: Image.Image
    size: tuple[int, int]
    box: Box | None = None

    def resized(self, spec: ImageSpec) -> Image.Image:
        """Resize it for a model, without the crop."""
        if self.box is None:
            return resized(self.image, spec)
        return resized_reduced(self.image, spec, self.size, self.box)


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
    least = None if least_side is None else partial(_least_by_side, least_side)
    return _opened_from(source, _Rules(fill, max_pixels, check_icc(icc), least)).image


def open_for_model(
    source: ImageSource, spec: ImageSpec, rules: PictureRules = EXACT, *, max_pixels: int = MAX_PIXELS
) -> Opened:
    """Decode a picture for a model, as `open_image` does; by `rules`, a JPEG may be reduced.

    Raises:
        ImageError, InvalidArgument: as `open_image` does.
    """
    least = partial(least_size, spec=spec) if rules.decode == "fast" else None
    return _opened_from(source, _Rules(spec.fill, max_pixels, rules.icc, least))


def model_pixels(source: ImageSource, spec: ImageSpec, rules: PictureRules = EXACT) -> Pixels:
    """Decode a picture for a model, resized and cropped -> uint8 (size, size, 3). Raises as `open_image` does."""
    return center_crop(open_for_model(source, spec, rules).resized(spec), spec)


def _least_by_side(side: int, size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, side / max(size))
    width, height = (max(1, math.ceil(scale * each)) for each in size)
    return width, height


def _opened_from(source: ImageSource, rules: _Rules) -> Opened:
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


def _decode_bytes(data: bytes, where: str, rules: _Rules) -> Opened:
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


def _decode_file(data: bytes, where: str, rules: _Rules) -> Opened:
    ours = open_ours(data, where)
    if ours is not None:
        return _decode_ours(ours, where, rules, data)
    with open_header(data, where) as image:
        for name in _XMP:
            image.info.pop(name, None)
        scale_key(image, data)
        _scale_palette(image)
        size, box = image.size, None
        if rules.least is not None and image.format in _JPEGS:
            _require_size(size, where, rules.max_pixels)
            box = _reduce(image, rules.least(size))
        opened = _decode(image, where, rules, data, None if box is None else (size, box))
        if opened.image is not image:
            image.close()
        return opened


def _reduce(image: Image.Image, least: tuple[int, int]) -> Box | None:
    """Let a JPEG be decoded smaller, if it keeps this size -> the part that it then fills; None if it is not."""
    size = image.size
    drafted = image.draft(None, least)
    return None if drafted is None or image.size == size else drafted[1]


def _decode_ours(picture: OwnPicture, where: str, rules: _Rules, data: bytes) -> Opened:
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


def _decode(
    image: Image.Image,
    where: str,
    rules: _Rules,
    data: bytes = b"",
    whole: tuple[tuple[int, int], Box] | None = None,
) -> Opened:
    """Decode the pixels. whole: of a reduced picture its full size, and the part of the image that it fills."""
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
        return _upright(rgb, orientation, whole)
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


def _upright(image: Image.Image, orientation: int, whole: tuple[tuple[int, int], Box] | None = None) -> Opened:
    # Not ImageOps.exif_transpose: it copies even upright pictures, and fails if EXIF is broken.
    turned = image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
    if whole is None:
        return Opened(turned, turned.size)
    (width, height), box = whole
    return Opened(
        turned,
        (height, width) if orientation in _ON_ITS_SIDE else (width, height),
        _turned(box, image.size, orientation),
    )


def _turned(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Turn a part of a picture of this size upright with it."""
    left, top, right, bottom = box
    width, height = size
    if orientation in _ON_ITS_SIDE:
        left, top, right, bottom, width, height = top, left, bottom, right, height, width
    if orientation in _FROM_THE_RIGHT:
        left, right = width - right, width - left
    if orientation in _FROM_BELOW:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


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
