"""Which decoder a file gets, by its first bytes, and what is said of a file that none can read."""

from __future__ import annotations

import functools
import importlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

from PIL import Image

from clipdex.errors import ImageError, MissingExtra
from clipdex.extras import needs

__all__ = ["FORMATS", "ends_early", "open_header", "refused", "use_one_thread", "without_remarks"]

# Asked for by name, so that Pillow never tries a decoder that runs another program (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_PLUGINS = ("Jpeg", "Png", "WebP", "Gif", "Bmp", "Tiff", "Avif")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_PNG = b"\x89PNG\r\n\x1a\n"
# The PNG chunks that pixels depend on; all others are remarks.
_PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf")

# The most that a decoder was seen to take for a pixel: libwebp, with its two canvases and two copies.
_DECODER_BYTES = 16

_Factory: TypeAlias = "Callable[[io.BytesIO, str], Image.Image]"


def open_header(data: bytes, where: str) -> Image.Image:
    """Read a picture's header: then its size and mode are known, and no pixel is decoded yet.

    Raises:
        ImageError: `data` is no picture, or its header is broken.
    """
    refusal: ImageError | None = None
    for factory in _factories(data):
        try:
            # Not Image.open: that swallows the decoder's own words, and warns of sizes that we allow.
            return factory(io.BytesIO(data), "")
        except MissingExtra as exc:
            raise ImageError(f"{where}: {exc}", reason="not_a_picture") from exc
        # Malformed files make Pillow raise nearly anything: ValueError, SyntaxError, KeyError, struct.error, ...
        except Exception as exc:
            refusal = refused(exc, data, where, _webp_pixels(data))
            refusal.__cause__ = exc
    if refusal is not None:
        raise refusal
    known = ", ".join(FORMATS)
    raise ImageError(f"{where}: not a picture in a known format ({known}, HEIC)", reason="not_a_picture")


def refused(error: Exception, data: bytes, where: str, pixels: int) -> ImageError:
    """What to raise when a decoder raised `error` over `data`, a picture of so many pixels if that is known."""
    words = str(error) or type(error).__name__
    lower = words.lower()
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(f"{where}: {words}", reason="too_many_pixels")
    lacks_memory = isinstance(error, MemoryError) or "out of memory" in lower
    if not lacks_memory and ("truncated" in lower or ends_early(data)):
        return ImageError(f"{where}: it ends early: {words}", reason="truncated")
    if lacks_memory or _is_too_much(pixels):
        return ImageError(f"{where}: not enough memory to decode it", reason="out_of_memory")
    return ImageError(f"{where}: cannot be decoded: {words}", reason="broken")


def _is_too_much(pixels: int) -> bool:
    """Whether decoding so many pixels is beyond this process: libwebp and libjpeg say only that they failed."""
    try:
        bytearray(_DECODER_BYTES * pixels)  # not touched, so it costs nothing
    except MemoryError:
        return True
    return False


def without_remarks(data: bytes) -> bytes:
    """A PNG with nothing but what its pixels need; any other file as it is.

    Pillow refuses a whole picture for a text or colour profile that unpacks to more than 1 MiB, or that has a
    wrong checksum. None of them touches a pixel here.
    """
    if not data.startswith(_PNG):
        return data
    return _PNG + b"".join(
        chunk
        for kind, chunk in _png_chunks(data)
        if kind in _PNG_PIXELS and (kind != b"eXIf" or _checksum_is_right(chunk))
    )


def ends_early(data: bytes) -> bool:
    """Whether a file that could not be decoded lacks its end. Where its format does not tell, False."""
    tail = data[-4096:]  # programs append all sorts of things
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if data.startswith(_PNG):
        return b"IEND" not in tail
    if data.startswith(b"GIF8"):
        return not data.endswith(b";")
    if data.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data.startswith(b"BM"):
        return len(data) < int.from_bytes(data[2:6], "little")
    if data.startswith((b"II*\0", b"MM\0*")):
        return _tiff_end(data) > len(data)
    if data[4:8] == b"ftyp":
        return _boxes_end(data) > len(data)
    return False


def use_one_thread() -> None:
    """For processes that decode side by side: an AVIF would take a thread for each core, and memory for each."""
    _load_plugins()
    from PIL import AvifImagePlugin

    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    try:
        from pillow_heif import options
    except ImportError:
        return
    options.DECODE_THREADS = 1


@functools.cache
def _load_plugins() -> None:
    """Only ours: left to itself, Pillow imports all forty at the first WebP."""
    for name in _PLUGINS:
        importlib.import_module(f"PIL.{name}ImagePlugin")


def _factories(data: bytes) -> Iterator[_Factory]:
    """The decoders that take a file with these first bytes for theirs."""
    _load_plugins()
    prefix = data[:16]
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(prefix):
            yield factory
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIC_BRANDS:
        yield _open_heic


def _open_heic(file: io.BytesIO, name: str) -> Image.Image:
    with needs("pillow_heif", "pillow-heif", "heic", "reading HEIC"):
        from pillow_heif import HeifImageFile
    image: Image.Image = HeifImageFile(file, name)
    return image


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, the chunk whole) of each; the last may be cut short."""
    at = len(_PNG)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at:end]
        at = end


def _checksum_is_right(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _webp_pixels(data: bytes) -> int:
    """What a WebP's header claims; 0 for other files. Its decoder takes memory before it says a size."""

    def number(start: int, end: int) -> int:
        return int.from_bytes(data[start:end], "little")

    if not data.startswith(b"RIFF"):
        return 0
    if data[12:16] == b"VP8X":
        return (number(24, 27) + 1) * (number(27, 30) + 1)
    if data[12:16] == b"VP8L":
        return ((number(21, 25) & 0x3FFF) + 1) * ((number(21, 25) >> 14 & 0x3FFF) + 1)
    return (number(26, 28) & 0x3FFF) * (number(28, 30) & 0x3FFF)


def _tiff_end(data: bytes) -> int:
    """Where the first page of a TIFF ends, as far as can be read: its directory and its strips or tiles."""
    order = "<" if data.startswith(b"II") else ">"
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, at)
        starts: tuple[int, ...] = ()
        lengths: tuple[int, ...] = ()
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", data, entry)
            if tag in (273, 279, 324, 325) and kind in (3, 4):
                item = "H" if kind == 3 else "I"
                inline = count * (2 if kind == 3 else 4) <= 4
                (offset,) = (entry + 8,) if inline else struct.unpack_from(order + "I", data, entry + 8)
                values = struct.unpack_from(f"{order}{count}{item}", data, offset)
                if tag in (273, 324):
                    starts = values
                else:
                    lengths = values
    except struct.error:
        return len(data) + 1
    return max((start + length for start, length in zip(starts, lengths, strict=False)), default=0)


def _boxes_end(data: bytes) -> int:
    """Where the last box of an AVIF or HEIC ends."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 0:  # to the end of the file
            return len(data)
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        at += max(size, 8)
    return at if at >= len(data) else len(data) + 1
