"""Worker process that draws thumbnails; `worker_loop.py` has what it shares with other workers.

It is started with the file descriptors of its pipe and of memory shared with its siblings, and the limits as JSON.
Messages are bytes:

    to it:    the side in pixels; the most bytes of a JPEG; the content hash that the file must have, or zeros;
              a ReadRequest
    from it:  a byte 0 and the JPEG, or a byte 1 and "reason\\0detail"
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
from clipdex.pipeline.worker_loop import More, failure_of, serve, with_enough_memory
from clipdex.sources.thumbnail import drawn

__all__ = ["CHANGED", "DRAWN", "WANTED", "main"]

WANTED = struct.Struct("<qq16s")
DRAWN, FAILED = b"\0", b"\1"
CHANGED = "changed"  # the reason if the file has another hash


def draw_file(message: bytes, limits: Limits, with_more: More = None) -> bytes:
    """Read a picture and draw it small -> the message to answer with."""
    try:
        side, most_bytes, expected = WANTED.unpack_from(message)
        request = ReadRequest.parse(message[WANTED.size :])
        with open_picture(request.file) as file:
            data = request.read(file, os.fstat(file.fileno()), limits.max_file_bytes)
        if any(expected) and hashlib.blake2b(data, digest_size=16).digest() != expected:
            raise ImageError("the file has changed since it was indexed", reason=CHANGED)
        jpeg = with_enough_memory(lambda: drawn(data, side, most_bytes, max_pixels=limits.max_pixels), with_more)
    except (ImageError, OSError, MemoryError) as exc:
        reason, detail = failure_of(exc)
        return FAILED + f"{reason}\0{detail}".encode("utf-8", "backslashreplace")
    return DRAWN + jpeg


def main() -> None:
    """Serve until the pipe closes."""
    descriptor, memory, bounds = sys.argv[1:]
    limits = Limits(**json.loads(bounds))
    serve(int(descriptor), int(memory), limits, lambda message, more: draw_file(message, limits, more))
