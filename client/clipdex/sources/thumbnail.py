"""Thumbnails of indexed pictures, as JPEG of bounded size."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

from PIL import Image

from clipdex.base.errors import ClipdexError, ImageError
from clipdex.base.item_paths import id_of_text
from clipdex.base.limits import MAX_PIXELS, Limits
from clipdex.base.read_request import ReadRequest
from clipdex.base.regular_files import open_picture
from clipdex.model.images import ImageSource, open_image
from clipdex.sources.opening import member_bytes

__all__ = ["Thumbnail", "ThumbnailSize", "drawn", "read_picture", "thumbnail"]

_QUALITIES = (85, 70, 50, 30)  # of JPEG; the next is tried where a picture has too many bytes
_LEAST_SIDE = 16


@dataclass(frozen=True)
class ThumbnailSize:
    """The most that a thumbnail may have: pixels along its longer side as it is displayed, and bytes.

    It is stored with twice the pixels, as many as a display of high density shows, if the picture has them.
    """

    side: int
    most_bytes: int


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG, and the size in CSS pixels at which it is displayed: never more than the picture's own."""

    jpeg: bytes
    width: int
    height: int


def thumbnail(path: str, size: ThumbnailSize) -> Thumbnail:
    """Draw an indexed picture small: upright, whole, in sRGB. It may lie in a tar or a table.

    Raises:
        ImageError: it cannot be read or drawn; `reason` is one of the codes in docs/failures.md.
    """
    try:
        image = open_image(read_picture(path), icc="srgb")
        scale = min(1.0, size.side / max(image.size))
        width, height = (max(1, round(scale * pixels)) for pixels in image.size)
        return Thumbnail(_jpeg(image, 2 * size.side, size.most_bytes), width, height)
    except ImageError:
        raise
    except MemoryError as exc:
        raise ImageError("there is not enough memory to draw it", reason="out_of_memory") from exc
    except ClipdexError as exc:
        raise ImageError(str(exc), reason="unreadable") from exc
    except Exception as exc:  # whatever is wrong with one picture, the page shows the others
        raise ImageError(f"cannot be drawn: {exc}", reason="broken") from exc


def drawn(image: ImageSource, side: int, most_bytes: int, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """Draw a picture as a JPEG: upright, whole, in sRGB, at most `side` pixels wide and high.

    Raises:
        ImageError: it cannot be decoded.
    """
    opened = open_image(image, icc="srgb", max_pixels=max_pixels, least_side=2 * side)
    return _jpeg(opened.copy() if opened is image else opened, side, most_bytes)


def read_picture(path: str) -> bytes:
    """Read a picture's file, or the part of a tar or table that it is.

    A file is not read if it is too large, or is by now a pipe, which might never end.
    """
    if id_of_text(path) is not None:
        raise ImageError("was added by id, and has no file", reason="not_a_file")
    try:
        if (inside := member_bytes(path)) is not None:
            return inside
        with open_picture(path) as file:
            info = os.fstat(file.fileno())
            return ReadRequest(os.fsencode(path)).read(file, info, Limits().max_file_bytes)
    except FileNotFoundError as exc:
        raise ImageError("there is no such file", reason="vanished") from exc
    except (IsADirectoryError, NotADirectoryError) as exc:
        reason = "not_a_file" if isinstance(exc, IsADirectoryError) else "vanished"
        raise ImageError(f"cannot be read: {exc.strerror}", reason=reason) from exc
    except (OSError, ValueError) as exc:
        raise ImageError(f"cannot be read: {exc}", reason="unreadable") from exc


def _jpeg(image: Image.Image, side: int, most_bytes: int) -> bytes:
    """Encode a picture in at most this many bytes: coarser first, then smaller. The image is changed."""
    while True:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            # Without subsampling: drawn edges between two colours stay sharp.
            image.save(buffer, "JPEG", quality=quality, subsampling=0)
            if buffer.tell() <= most_bytes or (side <= _LEAST_SIDE and quality == _QUALITIES[-1]):
                return buffer.getvalue()
        side //= 2
