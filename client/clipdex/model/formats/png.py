"""PNGs beyond what Pillow does: broken chunks that no pixel depends on, and 16-bit colours."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from clipdex.model.formats.deep import SampleRange, full_scale, to_eight_bits
from clipdex.model.formats.flatten import over, strips

__all__ = ["deep_colours", "scale_key", "without_remarks"]

_PNG = b"\x89PNG\r\n\x1a\n"
# The chunks that pixels depend on; all others are ancillary.
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"iCCP")
_LARGEST_PROFILE = 1 << 20  # unpacked; Pillow refuses larger ones

_GREY, _RGB, _GREY_ALPHA, _RGBA = 0, 2, 4, 6
# Pillow keeps the high byte of 16-bit samples. If it reads them as little-endian, it keeps the low one.
_LOW_BYTES = {_RGB: "RGB;16L", _RGBA: "RGBA;16L"}
_CHANNELS = {_RGB: 3, _GREY_ALPHA: 2, _RGBA: 4}


def without_remarks(data: bytes) -> bytes:
    """Return a PNG with only the chunks its pixels need; any other file as it is.

    Pillow rejects a whole picture for an ancillary chunk that is empty or truncated, that unpacks to more than
    1 MiB, or that has a wrong checksum. None of these affects a pixel.
    """
    if not data.startswith(_PNG):
        return data
    return _PNG + b"".join(
        chunk for kind, chunk in _chunks(data) if kind in _PIXELS and _is_of_use(kind, chunk, data[25:26])
    )


def scale_key(image: Image.Image, data: bytes) -> None:
    """Scale the transparent value of a grey PNG of 2 or 4 bits: Pillow scales its pixels only."""
    key = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and isinstance(key, int):
        bits = data[24]  # of IHDR, which comes first
        image.info["transparency"] = key * 255 // (2**bits - 1)


def deep_colours(image: Image.Image, data: bytes, fill: tuple[int, int, int]) -> Image.Image | None:
    """Convert a loaded PNG whose 16-bit samples Pillow's 8 bits do not represent well to RGB; None for all others.

    These are pictures that use less than a quarter of the 16-bit range, and those with a transparent colour.
    """
    if image.format != "PNG" or data[24:25] != b"\x10" or data[25] not in _CHANNELS:
        return None
    colour, key = data[25], image.info.get("transparency")
    if not isinstance(key, tuple) and not _may_use_little(image):
        return None
    low = _reread(data, _LOW_BYTES.get(colour, "RGBA"))
    used, alpha_used = SampleRange(), SampleRange()
    for box in strips(image.size):
        samples = _samples(image, low, box, colour)
        used.add(samples[..., :3] if colour != _GREY_ALPHA else samples[..., :1])
        if colour != _RGB:
            alpha_used.add(samples[..., -1])
    full = full_scale(np.dtype(np.uint16), 16, used.top)
    white = used.white(full)
    if white == 65535 and not isinstance(key, tuple):
        return None
    alpha_full = full_scale(np.dtype(np.uint16), 16, alpha_used.top)
    alpha_white = alpha_used.white(alpha_full) if white < full else alpha_full
    rgb = Image.new("RGB", image.size)
    for box in strips(image.size):
        samples = _samples(image, low, box, colour)
        colours = samples if colour == _RGB else samples[..., :-1]
        eight = (colours >> 8).astype(np.uint8) if white == 65535 else to_eight_bits(colours, white)
        if eight.shape[-1] == 1:
            eight = np.repeat(eight, 3, axis=2)
        if colour != _RGB:
            eight = np.concatenate([eight, to_eight_bits(samples[..., -1:], alpha_white)], axis=2)
        strip = Image.fromarray(np.ascontiguousarray(eight))
        rgb.paste(strip if colour == _RGB else over(strip, fill), box)
        if isinstance(key, tuple):
            rgb.paste(fill, box, Image.fromarray((samples == np.array(key)).all(axis=2)))
    return rgb


def _may_use_little(image: Image.Image) -> bool:
    used = SampleRange()
    for box in strips(image.size):
        used.add(np.asarray(image.crop(box))[..., :3].astype(np.uint16) << 8)
    return used.white(65535) < 65535


def _reread(data: bytes, rawmode: str) -> Image.Image:
    """Decode the PNG again, with its samples read from other bytes."""
    again = PngImageFile(io.BytesIO(data), "")
    again.tile = [tile._replace(args=rawmode) for tile in again.tile]
    again.load()
    return again


def _samples(
    high: Image.Image, low: Image.Image, box: tuple[int, int, int, int], colour: int
) -> npt.NDArray[np.uint16]:
    """Return the 16-bit samples in a box: uint16 (rows, columns, 2 to 4)."""
    lower: npt.NDArray[Any] = np.asarray(low.crop(box)).astype(np.uint16)
    if colour == _GREY_ALPHA:  # both bytes of both samples, read as four 8-bit ones
        both: npt.NDArray[np.uint16] = lower[..., 0::2] << 8 | lower[..., 1::2]
        return both
    upper: npt.NDArray[np.uint16] = np.asarray(high.crop(box)).astype(np.uint16)
    joined: npt.NDArray[np.uint16] = upper << 8 | lower
    return joined


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, the whole chunk) of each chunk; the last may be truncated."""
    at = len(_PNG)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at:end]
        at = end


def _is_of_use(kind: bytes, chunk: bytes, colour: bytes) -> bool:
    """Return whether a chunk is valid; optional chunks that are not can be dropped."""
    body = chunk[8:-4]
    if kind == b"tRNS":
        return {b"\0": len(body) == 2, b"\2": len(body) == 6, b"\3": 0 < len(body) <= 256}.get(colour, False)
    if kind == b"eXIf":
        return bool(body) and _checksum_is_right(chunk)
    if kind == b"iCCP":
        return _checksum_is_right(chunk) and _unpacks(body)
    return True


def _unpacks(body: bytes) -> bool:
    """Return whether a compressed colour profile can be unpacked."""
    _, _, rest = body.partition(b"\0")
    if rest[:1] != b"\0":
        return False
    try:
        unpacker = zlib.decompressobj()
        unpacker.decompress(rest[1:], _LARGEST_PROFILE)
    except zlib.error:
        return False
    return unpacker.eof


def _checksum_is_right(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
