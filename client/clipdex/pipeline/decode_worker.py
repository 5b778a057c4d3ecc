"""Worker process that decodes: it reads requests from a pipe, and writes pixels into slots of shared memory.

It is a separate process so that a picture made to break a decoder ends one worker and not the run. `decode.py`
starts it with the file descriptors of its pipe and of the memory, the image rules and the limits as JSON, the
treatment of colour profiles, and "exif" if it is to read what pictures say of themselves. Messages are bytes:

    from the worker: nothing, b"", once it is ready
    to it:           the number of a slot, or -1 to decode nothing; the picture's previous content hash, or zeros;
                     a ReadRequest, or a refusal
    from it:         the header below; status 0: the slot holds the pixels, and the picture's perceptual signature
                     follows; 1: "reason\\0detail" follows; 2: its content is unchanged, and was not decoded;
                     after the signature, and after 2, JSON of an Exif follows if it was read;
                     before that, a single byte: 3 while it waits for its turn at a large picture, 4 when it has it
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import mmap
import os
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing.connection import Connection
from typing import TypeAlias

import numpy as np
from PIL import Image

from clipdex.base.arrays import Pixels
from clipdex.base.errors import ImageError
from clipdex.base.limits import Limits
from clipdex.base.read_request import ReadRequest
from clipdex.base.records import storable
from clipdex.base.regular_files import NOT_A_FILE, open_picture
from clipdex.looks.signature import perceptual_signature
from clipdex.model.card import ImageSpec
from clipdex.model.formats.decoders import use_one_thread
from clipdex.model.formats.icc import IccUse, check_icc
from clipdex.model.images import center_crop, open_image, resized
from clipdex.model.picture_exif import exif_of, sidecar_of
from clipdex.pipeline.large_pictures import turn

__all__ = ["BEGINS", "DECODED", "HEADER", "NO_HASH", "NO_SLOT", "SLOT", "UNCHANGED", "WAITS", "main"]

SLOT = struct.Struct("<q16s")

# status, width, height, size in bytes, mtime and ctime in ns, content hash, seconds to read and decode, to resize
HEADER = struct.Struct("<BIIqqq16sdd")
# A message's first byte. The last two are whole messages: a file's timeout is paused while its worker waits.
DECODED, FAILED, UNCHANGED, WAITS, BEGINS = range(5)
NO_HASH = bytes(16)
NO_SLOT = -1


def decode_file(
    message: bytes,
    slots: Pixels,
    spec: ImageSpec,
    limits: Limits,
    with_more: Callable[[], AbstractContextManager[None]] | None = None,
    icc: IccUse = "off",
    *,
    exif: bool = False,
) -> bytes:
    """Read and decode one picture into its slot -> the message to answer with. slots: uint8 (N, S, S, 3).

    with_more: returns a context with more memory, for a picture that does not fit; None if there is no more.
    exif: also read what it says of itself.
    """
    stated, digest = (0, 0, 0), NO_HASH
    began = time.perf_counter()
    try:
        slot, known = SLOT.unpack_from(message)
        request = ReadRequest.parse(message[SLOT.size :])
        with open_picture(request.file) as file:
            info = os.fstat(file.fileno())
            stated = (*request.identity(info), storable(info.st_ctime_ns))
            data = request.read(file, info, limits.max_file_bytes)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest == known or slot == NO_SLOT:
            told = _exif(data, request) if exif else b""
            return HEADER.pack(UNCHANGED, 0, 0, *stated, digest, time.perf_counter() - began, 0.0) + told
        made = None if with_more is None else _made_if_it_fits(data, slots[slot], spec, limits, icc)
        if made is None:
            with with_more() if with_more is not None else nullcontext():
                began = time.perf_counter()
                made = _made(data, slots[slot], spec, limits, icc)
    except ImageError as exc:
        return _failed(stated, digest, exc.reason, str(exc).removeprefix("the bytes given: "))
    except FileNotFoundError:
        return _failed(stated, digest, "vanished", "the file does not exist any more")
    except IsADirectoryError:
        return _failed(stated, digest, "not_a_file", NOT_A_FILE)
    except OSError as exc:
        return _failed(stated, digest, "unreadable", exc.strerror or type(exc).__name__)
    except MemoryError:
        return _failed(stated, digest, "out_of_memory", "not enough memory to read it")
    (width, height), decoded, signature = made
    seconds = decoded - began, time.perf_counter() - decoded
    told = _exif(data, request) if exif else b""
    return HEADER.pack(DECODED, width, height, *stated, digest, *seconds) + signature + told


def _exif(data: bytes, request: ReadRequest) -> bytes:
    """Return what a picture says of itself, as JSON. Only a picture with a file of its own has a sidecar."""
    return exif_of(data, sidecar_of(request.file) if request.is_whole_file else b"").as_json().encode()


_Made: TypeAlias = "tuple[tuple[int, int], float, bytes]"


def _made(data: bytes, slot: Pixels, spec: ImageSpec, limits: Limits, icc: IccUse) -> _Made:
    """Decode into a slot -> (width and height, time when decoded, perceptual signature)."""
    image = open_image(data, fill=spec.fill, max_pixels=limits.max_pixels, icc=icc)
    decoded = time.perf_counter()
    small = resized(image, spec)
    slot[...] = center_crop(small, spec)
    return image.size, decoded, perceptual_signature(small)


def _made_if_it_fits(data: bytes, slot: Pixels, spec: ImageSpec, limits: Limits, icc: IccUse) -> _Made | None:
    """Like `_made`, but None, with the memory freed, if there is too little of it."""
    try:
        return _made(data, slot, spec, limits, icc)
    except MemoryError:
        pass
    except ImageError as exc:
        if exc.reason != "out_of_memory":
            raise
    gc.collect()  # the error may hold on to half a picture
    return None


def _failed(stated: tuple[int, int, int], digest: bytes, reason: str, detail: str) -> bytes:
    """Build the message of a failure. stated: size, mtime and ctime."""
    text = f"{reason}\0{detail}".encode("utf-8", "backslashreplace")
    return HEADER.pack(FAILED, 0, 0, *stated, digest, 0.0, 0.0) + text


def _silence_decoders() -> None:
    """Silence libtiff and others, which print thousands of remarks on standard error; Python's output stays."""
    logging.disable(logging.ERROR)
    sys.stderr = open(os.dup(2), "w", buffering=1)  # noqa: SIM115 - it stays open
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def main() -> None:
    """Serve until the pipe closes."""
    # Ctrl-C reaches the whole group, systemd's SIGTERM the whole unit; the parent decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # a user cannot act on Pillow's warnings about odd metadata
    descriptor, memory, rules, bounds, icc, *also = sys.argv[1:]
    spec, limits = ImageSpec.from_dict(json.loads(rules)), Limits(**json.loads(bounds))
    mapped = mmap.mmap(int(memory), 0)
    slots: Pixels = np.frombuffer(mapped, dtype=np.uint8).reshape(-1, spec.size, spec.size, 3)
    use_one_thread()
    # Pillow's own limit would take effect before a higher one of ours; it raises at twice this.
    Image.MAX_IMAGE_PIXELS = (limits.max_pixels + 1) // 2
    limits.apply_to_this_process()
    _silence_decoders()
    with Connection(int(descriptor)) as pipe, suppress(EOFError, ConnectionError):  # the parent has ended
        pipe.send_bytes(b"")

        def with_more() -> AbstractContextManager[None]:
            return turn(
                int(memory),
                limits,
                waits=lambda: pipe.send_bytes(bytes([WAITS])),
                begins=lambda: pipe.send_bytes(bytes([BEGINS])),
            )

        more = with_more if limits.allows_larger else None
        while True:
            message = pipe.recv_bytes()
            pipe.send_bytes(decode_file(message, slots, spec, limits, more, check_icc(icc), exif="exif" in also))
