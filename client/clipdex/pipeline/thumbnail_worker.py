"""Worker process that draws thumbnails; `picture_worker.py` has what it shares with others.

Its own fields are the side in pixels, and the most bytes of a JPEG; what it makes is a JPEG.
"""

from __future__ import annotations

import struct

from clipdex.base.limits import Limits
from clipdex.pipeline.picture_worker import answer_of, serve_pictures
from clipdex.pipeline.worker_loop import More, with_enough_memory
from clipdex.sources.thumbnail import drawn

__all__ = ["WANTED", "main"]

WANTED = struct.Struct("<qq")


def draw_file(message: bytes, limits: Limits, with_more: More = None) -> bytes:
    """Read a picture and draw it small -> the message to answer with."""

    def draw(data: bytes, side: int, most_bytes: int) -> bytes:
        return with_enough_memory(lambda: drawn(data, side, most_bytes, max_pixels=limits.max_pixels), with_more)

    return answer_of(message, WANTED, limits, draw)


def main() -> None:
    """Serve until the pipe closes."""
    serve_pictures(draw_file)
