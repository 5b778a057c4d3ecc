"""Worker process that decodes: it reads requests from a pipe, and writes pixels into slots of shared memory.

`worker_loop.py` has what it shares with other workers. It is started with the file descriptors of its pipe and of
the memory, the image spec, the limits and the rules as JSON, and "exif" if it is to read
what pictures say of themselves. Messages are bytes:

    to it:           the number of a slot, or -1 to decode nothing; the picture's previous content hash, or zeros;
                     a ReadRequest, or a refusal
    from it:         the header below; status 0: the slot holds the pixels, and the picture's perceptual signature
                     follows; 1: "reason\\0detail" follows; 2: its content is unchanged, and was not decoded;
                     after the signature, and after 2, JSON of an Exif follows if it was read
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import sys
import time
from typing import TypeAlias

import numpy as np

from clipdex.base.arrays import Pixels
from clipdex.base.errors import ImageError
from clipdex.base.exif import Exif, exif_from_json
from clipdex.base.limits import Limits
from clipdex.base.read_request import ReadRequest
from clipdex.base.records import storable
from clipdex.base.regular_files import open_picture
from clipdex.looks.signature import SIGNATURE_BYTES, perceptual_signature
from clipdex.model.card import ImageSpec
from clipdex.model.images import center_crop, open_for_model
from clipdex.model.picture_exif import exif_of, sidecar_of
from clipdex.model.picture_rules import EXACT, PictureRules
from clipdex.pipeline.worker_loop import More, failure_of, serve, with_enough_memory

__all__ = ["DECODED", "HEADER", "NO_HASH", "NO_SLOT", "SLOT", "UNCHANGED", "main", "told_by"]

SLOT = struct.Struct("<q16s")

# status, width, height, size in bytes, mtime and ctime in ns, content hash, seconds to read and decode, to resize
HEADER = struct.Struct("<BIIqqq16sdd")
DECODED, FAILED, UNCHANGED = range(3)  # an answer's first byte
NO_HASH = bytes(16)
NO_SLOT = -1


def decode_file(
    message: bytes,
    slots: Pixels,
    spec: ImageSpec,
    limits: Limits,
    with_more: More = None,
    rules: PictureRules = EXACT,
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
        read_s = time.perf_counter() - began
        if digest == known or slot == NO_SLOT:
            told = _exif(data, request) if exif else b""
            return HEADER.pack(UNCHANGED, 0, 0, *stated, digest, read_s, 0.0) + told
        made = with_enough_memory(lambda: _made(data, slots[slot], spec, limits, rules), with_more)
    except (ImageError, OSError, MemoryError) as exc:
        return _failed(stated, digest, *failure_of(exc))
    (width, height), began_decoding, decoded, signature = made
    seconds = read_s + decoded - began_decoding, time.perf_counter() - decoded
    told = _exif(data, request) if exif else b""
    return HEADER.pack(DECODED, width, height, *stated, digest, *seconds) + signature + told


def told_by(message: bytes) -> tuple[bytes | None, Exif | None]:
    """Return what follows the header of an answer of status 0 or 2: (signature, Exif), each None if not there.

    Raises:
        ValueError: it is not such an answer.
    """
    at = HEADER.size + (SIGNATURE_BYTES if message[0] == DECODED else 0)
    signature, told = message[HEADER.size : at], message[at:]
    return signature or None, exif_from_json(told) if told else None


def _exif(data: bytes, request: ReadRequest) -> bytes:
    """Return what a picture says of itself, as JSON. Only a picture with a file of its own has a sidecar."""
    return exif_of(data, sidecar_of(request.file) if request.is_whole_file else b"").as_json().encode()


_Made: TypeAlias = "tuple[tuple[int, int], float, float, bytes]"


def _made(data: bytes, slot: Pixels, spec: ImageSpec, limits: Limits, rules: PictureRules) -> _Made:
    """Decode into a slot -> (width and height, times when it began and was decoded, perceptual signature)."""
    began = time.perf_counter()
    opened = open_for_model(data, spec, rules, max_pixels=limits.max_pixels)
    decoded = time.perf_counter()
    small = opened.resized(spec)
    slot[...] = center_crop(small, spec)
    return opened.size, began, decoded, perceptual_signature(small)


def _failed(stated: tuple[int, int, int], digest: bytes, reason: str, detail: str) -> bytes:
    """Build the message of a failure. stated: size, mtime and ctime."""
    text = f"{reason}\0{detail}".encode("utf-8", "backslashreplace")
    return HEADER.pack(FAILED, 0, 0, *stated, digest, 0.0, 0.0) + text


def main() -> None:
    """Serve until the pipe closes."""
    descriptor, memory, *told = sys.argv[1:]
    spec, limits = ImageSpec.from_dict(json.loads(told[0])), Limits(**json.loads(told[1]))
    rules = PictureRules(**json.loads(told[2]))
    mapped = mmap.mmap(int(memory), 0)
    slots: Pixels = np.frombuffer(mapped, dtype=np.uint8).reshape(-1, spec.size, spec.size, 3)
    exif = "exif" in told[3:]
    serve(
        int(descriptor),
        int(memory),
        limits,
        lambda message, more: decode_file(message, slots, spec, limits, more, rules, exif=exif),
    )
