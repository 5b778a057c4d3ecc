"""What worker processes have in common that make one thing of each picture; `worker_loop.py` is their life.

They are started with the file descriptors of their pipe and of memory shared with their siblings, and the limits
as JSON. Messages are bytes:

    to it:    the content hash that the file must have, or zeros; fields of the worker's own; a ReadRequest
    from it:  a byte 0 and what was made, or a byte 1 and "reason\\0detail"
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

from clipdex.base.errors import ImageError
from clipdex.base.limits import Limits
from clipdex.base.read_request import ReadRequest
from clipdex.base.regular_files import open_picture
from clipdex.pipeline.worker_loop import More, failure_of, serve

__all__ = ["CHANGED", "NO_HASH", "answer_of", "made_of", "serve_pictures"]

CHANGED = "changed"  # the reason if the file has another hash
NO_HASH = bytes(16)

_MADE, _FAILED = b"\0", b"\1"


def answer_of(message: bytes, fields: struct.Struct, limits: Limits, make: Callable[..., bytes]) -> bytes:
    """Read the picture of a request, and make something of it -> the message to answer with.

    fields: the worker's own. make: gets the picture's bytes, and the fields.
    """
    try:
        expected, rest = message[: len(NO_HASH)], message[len(NO_HASH) :]
        own: tuple[Any, ...] = fields.unpack_from(rest)
        request = ReadRequest.parse(rest[fields.size :])
        with open_picture(request.file) as file:
            data = request.read(file, os.fstat(file.fileno()), limits.max_file_bytes)
        if any(expected) and hashlib.blake2b(data, digest_size=16).digest() != expected:
            raise ImageError("the file has changed since it was indexed", reason=CHANGED)
        return _MADE + make(data, *own)
    except (ImageError, OSError, MemoryError) as exc:
        reason, detail = failure_of(exc)
        return _FAILED + f"{reason}\0{detail}".encode("utf-8", "backslashreplace")


def made_of(answer: bytes) -> bytes:
    """Return what was made, by an answer. Raises ImageError if the picture failed."""
    if answer[:1] == _MADE:
        return answer[1:]
    reason, _, detail = answer[1:].decode().partition("\0")
    raise ImageError(detail, reason=reason)


def serve_pictures(answer: Callable[[bytes, Limits, More], bytes]) -> None:
    """Answer requests by the arguments of this process, until its pipe closes."""
    descriptor, memory, bounds = sys.argv[1:]
    limits = Limits(**json.loads(bounds))
    serve(int(descriptor), int(memory), limits, lambda message, more: answer(message, limits, more))
