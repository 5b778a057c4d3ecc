"""JPEGs that lack their end marker, and what is said of those that libjpeg does not read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from random import Random

from PIL.JpegImagePlugin import JpegImageFile

from clipdex.model.formats.flatten import strips

__all__ = ["unusual_kind", "whole_without_end"]

_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_END = b"\xff\xd9"
_CONTINUATION = 1024  # bytes: more than any block of pixels can take


def whole_without_end(data: bytes) -> bytes | None:
    """The JPEG with its end marker, if that is all it lacks; None if any pixel is missing, or it is no such file.

    All pixels are there if they are the same whatever follows. A decoder that wants for a bit reads on, and of two
    continuations whose every bit differs at least one gives it other pixels.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    # Cut in the middle of its marker; a zero would make an 0xFF of it that is a pixel's.
    data = data.removesuffix(b"\xff")
    if not _scans_are_complete(data):
        return None
    # Without 0x00 and 0xFF, of which a marker is made.
    first = bytes(Random(0).randrange(1, 255) for _ in range(_CONTINUATION))
    second = bytes(byte ^ 0xFF for byte in first)
    restart = _next_restart(data)
    try:
        pixels = {_pixels(data + more + restart + more + _END) for more in (b"", first, second)}
    except MemoryError:
        raise
    except Exception:
        return None
    return data + _END if len(pixels) == 1 else None


def _next_restart(data: bytes) -> bytes:
    """The restart marker that comes next in the last scan, without which a decoder would not read on."""
    seen = {data.rfind(bytes((0xFF, marker))): marker for marker in range(0xD0, 0xD8)}
    at = max(seen)
    last = seen[at] if at > data.rfind(b"\xff\xda") else 0xD7
    return bytes((0xFF, 0xD0 + (last - 0xD0 + 1) % 8))


def _pixels(data: bytes) -> bytes:
    """A digest of the decoded pixels."""
    digest = hashlib.blake2b(digest_size=16)
    with JpegImageFile(io.BytesIO(data), "") as image:
        image.load()
        for box in strips(image.size):
            digest.update(image.crop(box).tobytes())
    return digest.digest()


def unusual_kind(data: bytes) -> str | None:
    """What a JPEG is that is not of the usual kinds, by its first frame."""
    for marker, segment in _segments(data):
        if marker not in _FRAMES:
            continue
        if marker in (0xC3, 0xC7, 0xCB, 0xCF):
            return "a lossless JPEG"
        if marker in (0xC5, 0xC6, 0xCD, 0xCE):
            return "a hierarchical JPEG"
        if segment[:1] not in (b"", b"\x08"):
            return f"a JPEG of {segment[0]} bits a sample"
        return None
    return None


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of the segments, those after the first scan too."""
    at = 2
    while 0 <= at < len(data) - 4:
        marker = data[at + 1]
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)
        elif marker == 0xFF:
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # within pixels
            at += 2
        else:
            end = at + 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
            yield marker, data[at + 4 : end]
            at = end


def _scans_are_complete(data: bytes) -> bool:
    """Whether every frequency of every component is there to its last bit: of progressive JPEGs scans may lack."""
    components: set[int] = set()
    missing: set[tuple[int, int]] = set()
    for marker, segment in _segments(data):
        try:
            if marker in _FRAMES:
                components = {segment[6 + 3 * i] for i in range(segment[5])}
                missing = {(which, frequency) for which in components for frequency in range(64)}
            elif marker == 0xDA:
                count = segment[0]
                start, end, bits = segment[1 + 2 * count : 4 + 2 * count]
                if not bits & 15:
                    scanned = {segment[1 + 2 * i] for i in range(count)}
                    missing -= {(which, frequency) for which in scanned for frequency in range(start, end + 1)}
        except (IndexError, ValueError):
            return False
    return bool(components) and not missing
