"""Which decoder a file gets, by its first bytes, and what is said of a file that none can read."""

from __future__ import annotations

import functools
import importlib
import io
import struct
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

from PIL import Image

from clipdex.base.errors import ImageError, MissingExtra
from clipdex.base.extras import needs
from clipdex.model.formats.bmp import Bitmap, is_bitmap
from clipdex.model.formats.jpeg import unusual_kind
from clipdex.model.formats.kinds import named_kind
from clipdex.model.formats.tiff import DeepTiff
from clipdex.model.formats.tiff_layout import is_raw_photograph, read_layout

__all__ = [
    "FORMATS",
    "OwnPicture",
    "ends_early",
    "extra_is_there",
    "open_header",
    "open_ours",
    "refused",
    "use_one_thread",
]

# Asked for by name, so that Pillow never tries a decoder that runs another program (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_PLUGINS = ("Jpeg", "Png", "WebP", "Gif", "Bmp", "Tiff", "Avif")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_PNG = b"\x89PNG\r\n\x1a\n"

# The most that a decoder was seen to take for a pixel: libwebp, with its two canvases and two copies.
_DECODER_BYTES = 16

_Factory: TypeAlias = "Callable[[io.BytesIO, str], Image.Image]"


class OwnPicture(Protocol):
    """A picture that clipdex decodes itself. Its header is read, and none of its pixels yet.

    size: (width, height) before it is turned. orientation: as EXIF has it. profile: its ICC profile.
    """

    size: tuple[int, int]
    orientation: int
    profile: bytes | None

    def to_rgb(self, fill: tuple[int, int, int]) -> Image.Image:
        """Its pixels, not turned, with transparency laid over `fill`: an RGB image, or CMYK if it is of inks."""
        ...


def open_ours(data: bytes, where: str) -> OwnPicture | None:
    """A picture that is not left to Pillow: BMPs, and TIFFs that it does not read or reads wrongly.

    Raises:
        ImageError: its header is broken, or says that it is of a kind that is not read.
    """
    if is_bitmap(data):
        return Bitmap(data, where)
    if raw := is_raw_photograph(data):
        raise _unsupported(where, raw)
    layout = read_layout(data)
    if layout is None:
        return None
    if layout.is_pillows:
        return None
    if layout.is_ours:
        return DeepTiff(data, layout, where)
    raise _unsupported(where, str(layout))


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
            raise ImageError(f"{where}: {exc}", reason="missing_extra") from exc
        # Malformed files make Pillow raise nearly anything: ValueError, SyntaxError, KeyError, struct.error, ...
        except Exception as exc:
            refusal = refused(exc, data, where, _webp_pixels(data))
            refusal.__cause__ = exc
    if refusal is not None:
        raise refusal
    known = ", ".join((*FORMATS, "HEIC"))
    kind = named_kind(data)
    if kind is None:
        raise ImageError(f"{where}: not a picture in a known format ({known})", reason="not_a_picture")
    name, is_picture = kind
    if is_picture:
        raise _unsupported(where, name)
    raise ImageError(f"{where}: {name}; not a picture in a known format ({known})", reason="not_a_picture")


def _unsupported(where: str, kind: str) -> ImageError:
    return ImageError(f"{where}: {kind}, which clipdex does not read: convert it", reason="unsupported")


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
    if kind := _unread_kind(data, words):
        return _unsupported(where, kind)
    return ImageError(f"{where}: cannot be decoded: {words}", reason="broken")


def _unread_kind(data: bytes, words: str) -> str | None:
    """What a sound file is that its decoder refused, with these words, only because it does not know the kind."""
    if data.startswith(b"\xff\xd8"):
        return unusual_kind(data)
    layout = read_layout(data)
    if layout is not None and (not layout.is_of_known_compression or words == "unknown pixel mode"):
        return str(layout)
    return None


def _is_too_much(pixels: int) -> bool:
    """Whether decoding so many pixels is beyond this process: libwebp and libjpeg say only that they failed."""
    try:
        bytearray(_DECODER_BYTES * pixels)  # not touched, so it costs nothing
    except MemoryError:
        return True
    return False


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
    if data.startswith((b"II+\0", b"MM\0+")):
        layout = read_layout(data)
        return layout is None or layout.end > len(data)
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


@functools.cache
def extra_is_there() -> bool:
    """Whether what failed as `missing_extra` can be read now: HEIC is the only kind that needs an extra."""
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        return False
    return True


def _open_heic(file: io.BytesIO, name: str) -> Image.Image:
    with needs("pillow_heif", "pillow-heif", "heic", "reading HEIC"):
        from pillow_heif import HeifImageFile
    image: Image.Image = HeifImageFile(file, name)
    return image


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
