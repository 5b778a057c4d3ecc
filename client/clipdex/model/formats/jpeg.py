"""JPEGs that lack their end marker, and the names of kinds that libjpeg does not read."""

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
    """Complete a JPEG that lacks only its end marker; None if a pixel is missing, or the file is not a JPEG.

    All pixels are present if they are the same whatever follows. A decoder that lacks bits reads on, and of two
    continuations that differ in every bit, at least one gives other pixels.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    # It may be cut in the middle of the marker; a following zero would turn this byte into pixel data.
    data = data.removesuffix(b"\xff")
    if not _scans_are_complete(data):
        return None
    # Without 0x00 and 0xFF, which have a meaning in markers.
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
    """Return the next restart marker of the last scan, without which a decoder would not read on."""
    seen = {data.rfind(bytes((0xFF, marker))): marker for marker in range(0xD0, 0xD8)}
    at = max(seen)
    last = seen[at] if at > data.rfind(b"\xff\xda") else 0xD7
    return bytes((0xFF, 0xD0 + (last - 0xD0 + 1) % 8))


def _pixels(data: bytes) -> bytes:
    """Return a digest of the decoded pixels."""
    digest = hashlib.blake2b(digest_size=16)
    with JpegImageFile(io.BytesIO(data), "") as image:
        image.load()
        for box in strips(image.size):
            digest.update(image.crop(box).tobytes())
    return digest.digest()


def unusual_kind(data: bytes) -> str | None:
    """Name a JPEG's kind by its first frame; None for the usual ones."""
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
    """Yield (marker, content) of all segments, including those after the first scan."""
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
    """Return whether the scans have every bit of every frequency: a progressive JPEG may lack some."""
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
