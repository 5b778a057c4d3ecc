"""Finding the blocks of EXIF, XMP and IPTC in a picture's file, without decoding it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from clipdex.model.formats.decoders import open_header
from clipdex.model.formats.iptc import iptc_within_photoshop
from clipdex.model.formats.tiff_tags import Tags
from clipdex.model.formats.xmp import LONGEST_PACKET

__all__ = ["Embedded", "embedded_in"]

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*")
_EXIF_PREFIX = b"Exif\0\0"
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP_PREFIX = b"Photoshop 3.0\0"
_PNG_XMP = b"XML:com.adobe.xmp\0"
_TAG_XMP, _TAG_IPTC = 700, 33723
_LONGEST = LONGEST_PACKET  # bytes of a block; longer ones are left out
_MOST_PARTS = 100_000  # segments or chunks


@dataclass(frozen=True)
class Embedded:
    """Blocks within a file; empty where there is none. exif: a TIFF structure. iptc: IIM."""

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""


def embedded_in(data: bytes) -> Embedded:
    """Find the blocks in a file's bytes. What is malformed is not found; MemoryError is the one error raised."""
    if data.startswith(b"\xff\xd8"):
        return _in_jpeg(data)
    if data.startswith(_PNG):
        return _in_png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _in_webp(data)
    if data.startswith(_TIFF):
        found = Tags(data).first((_TAG_XMP, _TAG_IPTC), _LONGEST)
        nothing = (0, b"")
        return Embedded(data, found.get(_TAG_XMP, nothing)[1], found.get(_TAG_IPTC, nothing)[1])
    return _by_decoder(data) if data[4:8] == b"ftyp" else Embedded()


def _in_jpeg(data: bytes) -> Embedded:
    exif = xmp = b""
    photoshop: list[bytes] = []
    at = 2
    for _ in range(_MOST_PARTS):
        if data[at : at + 1] != b"\xff" or at + 4 > len(data):
            break
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in (0xDA, 0xD9):  # pixels follow
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or end < at + 4:
            break
        if marker == 0xE1 and not exif and data.startswith(_EXIF_PREFIX, at + 4):
            exif = data[at + 4 + len(_EXIF_PREFIX) : end]
        elif marker == 0xE1 and not xmp and data.startswith(_XMP_PREFIX, at + 4):
            xmp = data[at + 4 + len(_XMP_PREFIX) : end]
        elif marker == 0xED and data.startswith(_PHOTOSHOP_PREFIX, at + 4) and len(photoshop) < 16:
            photoshop.append(data[at + 4 + len(_PHOTOSHOP_PREFIX) : end])
        at = end
    return Embedded(exif, xmp, iptc_within_photoshop(b"".join(photoshop)))


def _in_png(data: bytes) -> Embedded:
    exif = xmp = b""
    for kind, start, end in _chunks(data, len(_PNG), "big", kind_first=False):
        if kind == b"eXIf" and not exif and end - start <= _LONGEST:
            exif = data[start:end]
        elif kind == b"iTXt" and not xmp and end - start <= _LONGEST and data.startswith(_PNG_XMP, start):
            xmp = _international_text(data[start + len(_PNG_XMP) : end])
    return Embedded(_unprefixed(exif), xmp)


def _international_text(rest: bytes) -> bytes:
    """Return the text of an iTXt chunk, given what follows its keyword."""
    is_packed, _, tail = rest[:1], rest[1:2], rest[2:]
    _, _, tail = tail.partition(b"\0")  # the language
    _, _, text = tail.partition(b"\0")  # the translated keyword
    if is_packed != b"\1":
        return text
    try:
        return zlib.decompressobj().decompress(text, _LONGEST)
    except zlib.error:
        return b""


def _in_webp(data: bytes) -> Embedded:
    exif = xmp = b""
    for kind, start, end in _chunks(data, 12, "little", kind_first=True):
        if kind == b"EXIF" and not exif and end - start <= _LONGEST:
            exif = data[start:end]
        elif kind == b"XMP " and not xmp and end - start <= _LONGEST:
            xmp = data[start:end]
    return Embedded(_unprefixed(exif), xmp)


def _chunks(
    data: bytes, at: int, order: Literal["big", "little"], *, kind_first: bool
) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the chunks that are whole. kind_first: RIFF's, without checksums, padded."""
    for _ in range(_MOST_PARTS):
        if at + 8 > len(data):
            return
        head = data[at : at + 8]
        kind, size = (head[:4], head[4:]) if kind_first else (head[4:], head[:4])
        start = at + 8
        end = start + int.from_bytes(size, order)
        if end > len(data):
            return
        yield kind, start, end
        at = end + (end - start) % 2 if kind_first else end + 4


def _by_decoder(data: bytes) -> Embedded:
    """Ask the decoder of a format with boxes: AVIF or HEIC."""
    try:
        with open_header(data, "") as image:
            exif, xmp = (image.info.get(name) for name in ("exif", "xmp"))
    except MemoryError:
        raise
    except Exception:  # of Pillow's many, or ImageError: the picture itself is another's concern
        return Embedded()
    blocks = [block if isinstance(block, bytes) and len(block) <= _LONGEST else b"" for block in (exif, xmp)]
    return Embedded(_unprefixed(blocks[0]), blocks[1])


def _unprefixed(exif: bytes) -> bytes:
    return exif.removeprefix(_EXIF_PREFIX)
