"""The process that decodes: reads requests from a pipe, writes pixels back.

A process of its own, because a picture made to break a decoder should end one worker and not the run. Started
by `decode.py` with the file descriptor of its pipe, the image rules and the limits as JSON. Messages are bytes:

    to the worker:   a Request, or a refusal
    from it:         the header below, then pixels (status 0), or "reason\\0detail" (status 1)
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import sys
import warnings
from multiprocessing.connection import Connection

from clipdex.card import ImageSpec
from clipdex.errors import ImageError
from clipdex.images import open_image, to_pixels
from clipdex.pipeline.limits import Limits
from clipdex.pipeline.request import Request

__all__ = ["HEADER", "main"]

# status, width, height, size in bytes, mtime in ns, content hash
HEADER = struct.Struct("<BIIqq16s")
_NO_HASH = bytes(16)


def decode_file(message: bytes, spec: ImageSpec, limits: Limits) -> bytes:
    """Read and decode one picture -> the message that answers for it."""
    size, mtime_ns, digest = 0, 0, _NO_HASH
    try:
        request = Request.parse(message)
        with open(request.file, "rb") as file:
            info = os.fstat(file.fileno())
            size, mtime_ns = request.identity(info)
            data = request.read(file, info, limits.max_file_bytes)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        image = open_image(data, fill=spec.fill, max_pixels=limits.max_pixels)
        pixels = to_pixels(image, spec)
    except ImageError as exc:
        return _failed(size, mtime_ns, digest, exc.reason, str(exc).removeprefix("the bytes given: "))
    except FileNotFoundError:
        return _failed(size, mtime_ns, digest, "vanished", "there is no such file any more")
    except OSError as exc:
        return _failed(size, mtime_ns, digest, "unreadable", exc.strerror or type(exc).__name__)
    except MemoryError:
        return _failed(size, mtime_ns, digest, "out_of_memory", "not enough memory to read it")
    return HEADER.pack(0, image.width, image.height, size, mtime_ns, digest) + pixels.tobytes()


def _failed(size: int, mtime_ns: int, digest: bytes, reason: str, detail: str) -> bytes:
    text = f"{reason}\0{detail}".encode("utf-8", "backslashreplace")
    return HEADER.pack(1, 0, 0, size, mtime_ns, digest) + text


def main() -> None:
    """Serve until the pipe closes."""
    # Ctrl-C goes to the whole group; the parent decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # Pillow's word on odd metadata is nothing a user can act on
    descriptor, rules, bounds = sys.argv[1:]
    spec, limits = ImageSpec.from_dict(json.loads(rules)), Limits(**json.loads(bounds))
    limits.apply_to_this_process()
    with Connection(int(descriptor)) as pipe:
        while True:
            try:
                pipe.send_bytes(decode_file(pipe.recv_bytes(), spec, limits))
            except (EOFError, ConnectionError):
                return
