"""Choice of a file's decoder by its first bytes, and the errors for files that none can read."""

from __future__ import annotations

import functools
import importlib
import io
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

# Selected by name, so that Pillow never tries a decoder that runs another program (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")

_PLUGINS = ("Jpeg", "Png", "WebP", "Gif", "Bmp", "Tiff", "Avif")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_PNG = b"\x89PNG\r\n\x1a\n"

# The most memory per pixel observed in a decoder: libwebp, with its two canvases and two copies.
_DECODER_BYTES = 16

_Factory: TypeAlias = "Callable[[io.BytesIO, str], Image.Image]"


class OwnPicture(Protocol):
    """A picture that clipdex decodes itself; so far only its header has been read.

    size: (width, height) before it is turned upright. orientation: EXIF's, 1 to 8. profile: its ICC profile.
    """

    size: tuple[int, int]
    orientation: int
    profile: bytes | None

    def to_rgb(self, fill: tuple[int, int, int]) -> Image.Image:
        """Decode, without turning it upright, with transparency laid over `fill` -> an RGB or CMYK image."""
        ...


def open_ours(data: bytes, where: str) -> OwnPicture | None:
    """Open a picture that is not left to Pillow: a BMP, or a TIFF that Pillow cannot read or reads wrongly.

    -> None for all others.

    Raises:
        ImageError: its header is broken, or it is of an unsupported kind.
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
    """Read a picture's header, which has its size and mode, without decoding pixels.

    Raises:
        ImageError: `data` is not a picture, or its header is broken.
    """
    refusal: ImageError | None = None
    for factory in _factories(data):
        try:
            # Not Image.open: it hides the decoder's own message, and warns about sizes that we allow.
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
    """Return the error to raise after a decoder raised `error` over `data`. pixels: their number, 0 if unknown."""
    words = str(error) or type(error).__name__
    lower = words.lower()
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(f"{where}: {words}", reason="too_many_pixels")
    lacks_memory = isinstance(error, MemoryError) or "out of memory" in lower
    if not lacks_memory and ("truncated" in lower or ends_early(data)):
        return ImageError(f"{where}: the file is truncated: {words}", reason="truncated")
    if lacks_memory or _is_too_much(pixels):
        return ImageError(f"{where}: not enough memory to decode it", reason="out_of_memory")
    if kind := _unread_kind(data, words):
        return _unsupported(where, kind)
    return ImageError(f"{where}: cannot be decoded: {words}", reason="broken")


def _unread_kind(data: bytes, words: str) -> str | None:
    """Return the kind of an intact file whose decoder failed, with this message, because it is unsupported."""
    if data.startswith(b"\xff\xd8"):
        return unusual_kind(data)
    layout = read_layout(data)
    if layout is not None and (not layout.is_of_known_compression or words == "unknown pixel mode"):
        return str(layout)
    return None


def _is_too_much(pixels: int) -> bool:
    """Return whether memory is too small to decode this many pixels: libwebp and libjpeg do not give a reason."""
    try:
        bytearray(_DECODER_BYTES * pixels)  # not written to, so it costs nothing
    except MemoryError:
        return True
    return False


def ends_early(data: bytes) -> bool:
    """Return whether a file that could not be decoded lacks its end; False if its format does not tell."""
    tail = data[-4096:]  # some programs append data of their own
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
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        layout = read_layout(data)
        return layout is None or layout.end > len(data)
    if data[4:8] == b"ftyp":
        return _boxes_end(data) > len(data)
    return False


def use_one_thread() -> None:
    """Decode in one thread, for processes that run side by side: an AVIF would use threads and memory per core."""
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
    """Import only the plugins needed: by default, Pillow imports all forty at the first WebP."""
    for name in _PLUGINS:
        importlib.import_module(f"PIL.{name}ImagePlugin")


def _factories(data: bytes) -> Iterator[_Factory]:
    """Yield the decoders that accept a file with these first bytes."""
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
    """Return whether pictures that failed as `missing_extra` can be read now: HEIC alone needs an extra."""
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
    """Return the pixels that a WebP's header claims; 0 for other files. Its decoder allocates before it tells."""

    def number(start: int, end: int) -> int:
        return int.from_bytes(data[start:end], "little")

    if not data.startswith(b"RIFF"):
        return 0
    if data[12:16] == b"VP8X":
        return (number(24, 27) + 1) * (number(27, 30) + 1)
    if data[12:16] == b"VP8L":
        return ((number(21, 25) & 0x3FFF) + 1) * ((number(21, 25) >> 14 & 0x3FFF) + 1)
    return (number(26, 28) & 0x3FFF) * (number(28, 30) & 0x3FFF)


def _boxes_end(data: bytes) -> int:
    """Return where the last box of an AVIF or HEIC ends."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 0:  # to the end of the file
            return len(data)
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        at += max(size, 8)
    return at if at >= len(data) else len(data) + 1
