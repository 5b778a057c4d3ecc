"""Worker process that finds local features; `worker_loop.py` has what it shares with other workers.

It is started with the file descriptors of its pipe and of memory shared with its siblings, and the limits as JSON.
Messages are bytes:

    to it:    the recipe: kind, most points, side in pixels; the content hash that the file must have, or zeros;
              the picture's width and height as shown, or zeros if they are not known; a ReadRequest
    from it:  a byte 0 and the features, as `LocalFeatures.to_bytes` makes them, or a byte 1 and "reason\\0detail"
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys

from clipdex.base.errors import ImageError
from clipdex.base.limits import Limits
from clipdex.base.read_request import ReadRequest
from clipdex.base.regular_files import open_picture
from clipdex.looks.local_features import LocalFeatures, Recipe, extract, opencv
from clipdex.model.images import open_image
from clipdex.pipeline.thumbnail_worker import CHANGED
from clipdex.pipeline.worker_loop import More, failure_of, serve, with_enough_memory

__all__ = ["FOUND", "WANTED", "main", "wanted"]

WANTED = struct.Struct("<8sqq16sqq")
FOUND, FAILED = b"\0", b"\1"
_NO_HASH = bytes(16)


def wanted(recipe: Recipe, content_hash: bytes | None, size: tuple[int, int] | None) -> bytes:
    """Build the beginning of a request. size: width and height as shown, if they are known."""
    return WANTED.pack(
        recipe.kind.encode(),
        recipe.most,
        recipe.side,
        content_hash or _NO_HASH,
        *((0, 0) if size is None else size),
    )


def find_features(message: bytes, limits: Limits, with_more: More = None) -> bytes:
    """Read a picture and find its local features -> the message to answer with."""
    try:
        kind, most, side, expected, width, height = WANTED.unpack_from(message)
        recipe = Recipe(kind.rstrip(b"\0").decode(), most, side)
        request = ReadRequest.parse(message[WANTED.size :])
        with open_picture(request.file) as file:
            data = request.read(file, os.fstat(file.fileno()), limits.max_file_bytes)
        if any(expected) and hashlib.blake2b(data, digest_size=16).digest() != expected:
            raise ImageError("the file has changed since it was indexed", reason=CHANGED)
        size = (width, height) if width and height else None
        found = with_enough_memory(lambda: _found(data, recipe, size, limits), with_more)
    except (ImageError, OSError, MemoryError) as exc:
        reason, detail = failure_of(exc)
        return FAILED + f"{reason}\0{detail}".encode("utf-8", "backslashreplace")
    return FOUND + found.to_bytes()


def _found(data: bytes, recipe: Recipe, size: tuple[int, int] | None, limits: Limits) -> LocalFeatures:
    # Decoded smaller, a picture would not show how large it is.
    least = None if size is None else 2 * recipe.side
    image = open_image(data, max_pixels=limits.max_pixels, least_side=least)
    return extract(image, kind=recipe.kind, most=recipe.most, side=recipe.side, size=size)


def main() -> None:
    """Serve until the pipe closes."""
    descriptor, memory, bounds = sys.argv[1:]
    limits = Limits(**json.loads(bounds))
    cv2 = opencv()
    cv2.setNumThreads(1)  # there is a process for each core
    cv2.ocl.setUseOpenCL(False)
    serve(int(descriptor), int(memory), limits, lambda message, more: find_features(message, limits, more))
