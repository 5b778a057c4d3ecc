"""Worker process that finds local features; `picture_worker.py` has what it shares with others.

Its own fields are the recipe (kind, most points, side in pixels), and the picture's width and height as shown, or
zeros if they are not known; what it makes are features, as `LocalFeatures.to_bytes` encodes them.
"""

from __future__ import annotations

import struct

from clipdex.base.limits import Limits
from clipdex.looks.local_features import LocalFeatures, Recipe, extract, opencv
from clipdex.model.images import ImageSource, open_image
from clipdex.pipeline.picture_worker import answer_of, serve_pictures
from clipdex.pipeline.worker_loop import More, with_enough_memory

__all__ = ["features_of", "main", "wanted"]

_WANTED = struct.Struct("<8sqqqq")


def wanted(recipe: Recipe, size: tuple[int, int] | None) -> bytes:
    """Encode the worker's own fields. size: width and height as shown, if they are known."""
    return _WANTED.pack(recipe.kind.encode(), recipe.most, recipe.side, *((0, 0) if size is None else size))


def find_features(message: bytes, limits: Limits, with_more: More = None) -> bytes:
    """Read a picture and find its local features -> the message to answer with."""

    def find(data: bytes, kind: bytes, most: int, side: int, width: int, height: int) -> bytes:
        recipe = Recipe(kind.rstrip(b"\0").decode(), most, side)
        size = (width, height) if width and height else None
        return with_enough_memory(lambda: features_of(data, recipe, size, limits), with_more).to_bytes()

    return answer_of(message, _WANTED, limits, find)


def features_of(image: ImageSource, recipe: Recipe, size: tuple[int, int] | None, limits: Limits) -> LocalFeatures:
    """Decode a picture and find its local features. size: its width and height as shown, if they are known.

    Raises:
        ImageError: it cannot be decoded.
        MissingExtra: OpenCV is not installed.
        MemoryError: there is not enough memory.
    """
    # Decoded smaller, a picture would not show how large it is.
    least = None if size is None else 2 * recipe.side
    opened = open_image(image, max_pixels=limits.max_pixels, least_side=least)
    return extract(opened, kind=recipe.kind, most=recipe.most, side=recipe.side, size=size)


def main() -> None:
    """Serve until the pipe closes."""
    cv2 = opencv()
    cv2.setNumThreads(1)  # there is a process for each core
    cv2.ocl.setUseOpenCL(False)
    serve_pictures(find_features)
