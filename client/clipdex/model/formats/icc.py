"""Conversion of a picture's colours to sRGB by its ICC profile: optional, as models were trained without it."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from clipdex.base.errors import InvalidArgument

__all__ = ["IccUse", "check_icc", "convert_to_srgb"]

IccUse = Literal["off", "srgb"]

# A profile's colour space, bytes 16 to 20 of its header -> the Pillow mode for its colours.
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_SAME = 2  # of 255: a profile whose colours differ by no more counts as sRGB


def check_icc(use: str) -> IccUse:
    """Return `use` if it is off or srgb, else raise InvalidArgument."""
    if use not in get_args(IccUse):
        raise InvalidArgument(f"icc is {use!r}; expected off or srgb")
    return "srgb" if use == "srgb" else "off"


def convert_to_srgb(image: Image.Image, profile: bytes | None, *, copy: bool = False) -> Image.Image:
    """Convert a picture (RGB, RGBA, L, LA or CMYK) to sRGB -> RGB or RGBA, or the picture itself.

    It is returned itself if it has no profile, one that cannot be read or is for other modes, or sRGB's own.
    copy: keep the given picture unchanged; else the pixels of an RGB image are changed in place.
    """
    mode = _MODES.get(profile[16:20] if profile else b"")
    # A grey picture has one band, or three equal ones; a grey profile is valid for both.
    bands = {"RGB": "RGB", "RGBA": "RGB", "L": "L", "LA": "L", "CMYK": "CMYK"}.get(image.mode)
    if profile is None or mode is None or bands is None:
        return image
    if mode == "L" and bands == "RGB" and _is_grey(image):
        bands = "L"
        image = image.convert("LA" if image.mode == "RGBA" else "L")
    if mode != bands:
        return image
    transform = _transform(profile, mode)
    if transform is None:
        return image
    from PIL import ImageCms

    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    plain = image.convert(mode) if alpha is not None else image.copy() if copy else image
    if mode == "RGB":
        ImageCms.applyTransform(plain, transform, inPlace=True)
        converted = plain
    else:
        made = ImageCms.applyTransform(plain, transform)
        assert made is not None  # None only for a transform in place
        converted = made
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = image.split()[:3]
    return red.tobytes() == green.tobytes() == blue.tobytes()


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Any:
    """Build the transform from a profile to sRGB; None if it cannot be read, or makes no visible difference."""
    from PIL import ImageCms

    try:
        made = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return None if mode != "CMYK" and _changes_nothing(made, mode) else made
    except MemoryError:
        raise
    except Exception:  # LittleCMS raises many kinds of errors for malformed profiles
        return None


def _changes_nothing(transform: Any, mode: str) -> bool:
    from PIL import ImageCms

    steps = np.linspace(0, 255, 9).astype(np.uint8)
    if mode == "L":
        before = np.repeat(steps[None, :, None], 3, axis=2)
        asked = Image.fromarray(steps[None])
    else:
        before = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
        asked = Image.fromarray(before)
    after = ImageCms.applyTransform(asked, transform)
    return int(np.abs(np.asarray(after).astype(int) - before.astype(int)).max()) <= _SAME
