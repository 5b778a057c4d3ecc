"""Draws bad and unusual pictures: what a folder of millions of files holds, and what should become of each."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

Colour = tuple[int, int, int]

RED = (200, 30, 40)
WHITE = (255, 255, 255)
GREY = (128, 128, 128)
QUARTERS = ((220, 20, 20), (20, 200, 20), (30, 30, 210), (230, 220, 40))  # top left, right, bottom left, right


@dataclass(frozen=True)
class Hazard:
    """One file, and what should become of it: a row with these colours and this size, or a reason.

    corners: the colours at the top left, top right, bottom left and bottom right.
    tolerance: how far a colour may be off, for lossy formats.
    """

    name: str
    kind: str
    data: bytes
    reason: str = ""
    corners: tuple[Colour, ...] = ()
    size: tuple[int, int] = (0, 0)
    tolerance: int = 0


def hazards() -> list[Hazard]:
    """All of them; no two have the same bytes, but for those cut to nothing."""
    return [
        *truncated(),
        *bombs(),
        *other_magic(),
        *stumps(),
        *damaged_pngs(),
        *jpegs(),
        *pngs(),
        *tiffs(),
        *deep_tiffs(),
        *bitmaps(),
        *animations(),
        *modern(),
        *orientations(),
        *metadata(),
        *shapes(),
        *heics(),
    ]


# Drawing


def plain(colour: Colour = RED, size: tuple[int, int] = (24, 16)) -> Image.Image:
    return Image.new("RGB", size, colour)


def quarters(size: tuple[int, int] = (48, 32)) -> Image.Image:
    image = Image.new("RGB", size)
    half = (size[0] // 2, size[1] // 2)
    for colour, corner in zip(QUARTERS, ((0, 0), (half[0], 0), (0, half[1]), half), strict=True):
        image.paste(colour, (*corner, corner[0] + half[0], corner[1] + half[1]))
    return image


def noise(mode: str = "RGB", size: tuple[int, int] = (48, 48)) -> Image.Image:
    rng = np.random.default_rng(7)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def good(name: str, kind: str, data: bytes, colour: Colour = RED, tolerance: int = 0, size=(24, 16)) -> Hazard:
    """A file that is indexed, of one colour."""
    return Hazard(name, kind, data, corners=(colour,) * 4, size=size, tolerance=tolerance)


def bad(name: str, kind: str, data: bytes, reason: str) -> Hazard:
    return Hazard(name, kind, data, reason=reason)


# Files that end early


def truncated() -> Iterator[Hazard]:
    formats = {
        "jpg": saved(noise(), "JPEG", quality=90),
        "png": saved(noise(), "PNG"),
        "webp": saved(noise(), "WEBP", quality=90),
        "gif": saved(noise("P"), "GIF"),
        "tif": saved(noise(), "TIFF", compression="tiff_lzw"),
        "raw.tif": saved(noise(), "TIFF"),
        "bmp": saved(noise(), "BMP"),
        "avif": saved(noise(), "AVIF", quality=90),
    }
    for suffix, data in formats.items():
        for sixteenth in range(16):
            cut = data[: len(data) * sixteenth // 16]
            yield bad(f"cut{sixteenth:02}.{suffix}", "truncated", cut, "truncated" if cut else "empty")


# Small files that are large pictures


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(
    width: int,
    height: int,
    rows: bytes,
    *,
    bits: int = 8,
    colour: int = 2,
    chunks: bytes = b"",
    interlace: int = 0,
) -> bytes:
    """A PNG around a zlib stream of its filtered rows; `chunks` stand before the pixels."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    idat = png_chunk(b"IDAT", rows)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + chunks + idat + png_chunk(b"IEND", b"")


def zlib_zeros(count: int) -> bytes:
    """A zlib stream of `count` zeros, at the cost of the first few."""
    block = 1 << 20
    deflate = zlib.compressobj(9, wbits=-15)
    whole = deflate.compress(bytes(block)) + deflate.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, wbits=-15)
    last = rest.compress(bytes(count % block)) + rest.flush(zlib.Z_FINISH)
    adler = (count % 65521) << 16 | 1
    return b"\x78\xda" + whole * (count // block) + last + struct.pack(">I", adler)


def red_rows(width: int = 24, height: int = 16) -> bytes:
    return zlib.compress((b"\0" + bytes(RED) * width) * height)


def tiff_claiming(width: int, height: int) -> bytes:
    """A TIFF whose directory alone is large."""
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, 8),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + directory


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(saved(plain(), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def bombs() -> Iterator[Hazard]:
    yield bad("claims-60k.png", "bomb", png_of(60_000, 60_000, zlib.compress(b"")), "too_many_pixels")
    yield bad("20k.png", "bomb", png_of(20_000, 20_000, zlib_zeros(20_000 * 20_001), colour=0), "too_many_pixels")
    yield bad(
        "20k-1bit.png",
        "bomb",
        png_of(20_000, 20_000, zlib_zeros(20_000 * 2_501), bits=1, colour=0),
        "too_many_pixels",
    )
    # 676 MB as Pillow holds it, twice that to lay it over white.
    yield bad(
        "13k-rgba.png", "bomb", png_of(13_000, 13_000, zlib_zeros(13_000 * 52_001), colour=6), "out_of_memory"
    )
    yield good(
        "13k-grey.png",
        "bomb",
        png_of(13_000, 13_000, zlib_zeros(13_000 * 13_001), colour=0),
        (0, 0, 0),
        size=(13_000, 13_000),
    )
    yield bad("claims-60k.tif", "bomb", tiff_claiming(60_000, 60_000), "too_many_pixels")
    yield bad("claims-4G.tif", "bomb", tiff_claiming(2**32 - 1, 2**32 - 1), "too_many_pixels")
    yield bad("claims-13k.tif", "bomb", tiff_claiming(13_000, 13_000), "truncated")
    yield bad("claims-64k.jpg", "bomb", jpeg_claiming(65_500, 65_500), "too_many_pixels")
    # Its end comes long before its last pixel: libjpeg fills what is missing with grey, and says nothing.
    yield good("claims-13k.jpg", "bomb", jpeg_claiming(13_000, 13_000), GREY, size=(13_000, 13_000))
    gif = bytearray(saved(plain().convert("P"), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield bad("claims-64k.gif", "bomb", bytes(gif), "too_many_pixels")
    bmp = bytearray(saved(plain(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    yield bad("claims-60k.bmp", "bomb", bytes(bmp), "too_many_pixels")
    webp = b"WEBPVP8X" + struct.pack("<IB", 10, 0) + bytes(3) + struct.pack("<I", 19_999)[:3] * 2
    yield bad("claims-20k.webp", "bomb", b"RIFF" + struct.pack("<I", len(webp)) + webp, "too_many_pixels")
    # Text and colour profiles that unpack to 200 MB say nothing about the pixels.
    zeros = zlib_zeros(200_000_000)
    for kind, head in {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}.items():
        data = png_of(24, 16, red_rows(), chunks=png_chunk(kind, head + zeros))
        yield good(f"bomb-{kind.decode()}.png", "bomb", data)
    many = png_chunk(b"zTXt", b"a\0\0" + zlib_zeros(1_000_000)) * 100
    yield good("many-zTXt.png", "bomb", png_of(24, 16, red_rows(), chunks=many))
    late = saved(plain(), "PNG")[:-12] + png_chunk(b"zTXt", b"a\0\0" + zeros) + png_chunk(b"IEND", b"")
    yield good("bomb-after-pixels.png", "bomb", late)
    inflates = zlib.compressobj(9)
    rows = (
        inflates.compress((b"\0" + bytes(RED) * 24) * 16) + inflates.compress(bytes(50_000_000)) + inflates.flush()
    )
    yield good("more-rows-than-claimed.png", "bomb", png_of(24, 16, rows))


# Files that are something else


def other_magic() -> Iterator[Hazard]:
    yield good("png-named.jpg", "wrong name", saved(plain(), "PNG"))
    yield good("jpeg-named.png", "wrong name", saved(plain(), "JPEG", quality=95), tolerance=4)
    yield good("webp-named.gif", "wrong name", saved(plain(), "WEBP", lossless=True, method=1))
    yield good("gif-named.tif", "wrong name", saved(plain(), "GIF"), tolerance=2)
    yield good("tiff-named.avif", "wrong name", saved(plain(), "TIFF", dpi=(72, 72)))
    yield good("bmp-named.jpeg", "wrong name", saved(plain(), "BMP"))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%id) (w) file\n"
    others = {
        "text": b"Dear diary,\n",
        "pdf": b"%PDF-1.7\n1 0 obj << /Type /Catalog >> endobj\n",
        "eps": postscript,
        "dos-eps": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(postscript)) + bytes(18) + postscript,
        "zip": b"PK\x03\x04" + bytes(60),
        "mp4": struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 512, b"mp41") + bytes(40),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
        "html": b"<!DOCTYPE html><title>404 Not Found</title>",
        "elf": b"\x7fELF\x02\x01\x01" + bytes(60),
        "gzip": b"\x1f\x8b\x08" + bytes(30),
        "psd": b"8BPS\0\1" + bytes(60),
        "jpeg2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60),
        "avi": b"RIFF" + struct.pack("<I", 60) + b"AVI LIST" + bytes(52),
        "pnm": b"P6 2 2 255 " + bytes(12),
        "ico": b"\0\0\1\0\1\0\x10\x10" + bytes(60),
        "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
    }
    pictures = ("eps", "dos-eps", "svg", "psd", "jpeg2000", "pnm", "ico")
    for name, data in others.items():
        reason = "unsupported" if name in pictures else "not_a_picture"
        yield bad(f"{name}.jpg", "not a picture", data, reason)


def stumps() -> Iterator[Hazard]:
    """Hardly a byte, and headers with nothing behind them."""
    yield bad("zero.jpg", "stump", b"", "empty")
    yield bad("one-byte.jpg", "stump", b"\xff", "not_a_picture")
    yield bad("zeros.jpg", "stump", bytes(4096), "not_a_picture")
    yield bad("magic.jpg", "stump", b"\xff\xd8\xff\xe0", "truncated")
    yield bad("magic.png", "stump", b"\x89PNG\r\n\x1a\n", "truncated")
    yield bad("magic.gif", "stump", b"GIF89a", "truncated")
    yield bad("magic.webp", "stump", b"RIFF\x24\0\0\0WEBPVP8 ", "truncated")
    yield bad("magic.bmp", "stump", b"BM\x46\0\0\0", "truncated")
    yield bad("magic.tif", "stump", b"II*\0\x08\0\0\0", "truncated")
    yield bad("magic.avif", "stump", struct.pack(">I4s4sI4s", 20, b"ftyp", b"avif", 0, b"mif1"), "truncated")
    jpeg = saved(noise(), "JPEG")
    yield bad("header.jpg", "stump", jpeg[: jpeg.index(b"\xff\xda")], "truncated")
    yield bad("header.png", "stump", saved(noise(), "PNG")[:33], "truncated")
    yield bad("no-pixels.png", "stump", png_of(24, 16, zlib.compress(b"")), "truncated")
    yield bad("no-idat.png", "stump", png_of(24, 16, b"")[:33] + png_chunk(b"IEND", b""), "broken")
    yield bad("zero-wide.png", "stump", png_of(0, 16, zlib.compress(b"")), "broken")
    yield bad("soi-eoi.jpg", "stump", b"\xff\xd8\xff\xd9", "broken")


def damaged_pngs() -> Iterator[Hazard]:
    data = png_of(24, 16, red_rows(), chunks=png_chunk(b"tEXt", b"a\0b"))

    def with_wrong_checksum(kind: bytes) -> bytes:
        at = data.index(kind) + 4 + int.from_bytes(data[data.index(kind) - 4 : data.index(kind)], "big")
        return data[:at] + bytes(byte ^ 0x55 for byte in data[at : at + 4]) + data[at + 4 :]

    yield bad("crc-IHDR.png", "wrong checksum", with_wrong_checksum(b"IHDR"), "broken")
    # Pillow leaves the pixels' own checksum, inside the zlib stream, to find damage there.
    yield good("crc-IDAT.png", "wrong checksum", with_wrong_checksum(b"IDAT"))
    yield good("crc-tEXt.png", "wrong checksum", with_wrong_checksum(b"tEXt"))
    yield good("crc-IEND.png", "wrong checksum", with_wrong_checksum(b"IEND"))
    rows = bytearray(red_rows())
    rows[len(rows) // 2] ^= 0xFF
    yield bad("flipped-bit.png", "wrong checksum", png_of(24, 16, bytes(rows)), "broken")
    yield bad("adler.png", "wrong checksum", png_of(24, 16, red_rows()[:-4] + b"\1\2\3\4"), "broken")
    yield bad("mode.png", "wrong checksum", png_of(24, 16, red_rows(), bits=7), "broken")


# Kinds of JPEG

# Written by `cjpeg -arithmetic` of libjpeg-turbo 2.1.5 from 16 × 16 pixels of RED: Pillow cannot write it.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGBYU"
    "GBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/yQARCAAQABAD"
    "ASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/AMkd0UQL2v/Z"
)


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of a JPEG's segments up to its pixels."""
    at = 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], at, end
        at = end


def without_segments(data: bytes, marker: int) -> bytes:
    for found, start, end in reversed(list(segments(data))):
        if found == marker:
            data = data[:start] + data[end:]
    return data


def ycck() -> bytes:
    """RED as Adobe writes CMYK: inverted, and the complement of the first three as YCbCr; a marker says so."""
    red, green, blue = (255 - value for value in RED)
    y, cb, cr = plain((red, green, blue)).convert("YCbCr").tobytes()[:3]
    ink = Image.new("CMYK", (24, 16), (255 - y, 255 - cb, 255 - cr, 0))
    data = bytearray(saved(ink, "JPEG", quality=98))
    at = data.index(b"Adobe") + 11
    data[at] = 2
    return bytes(data)


def many_scans(count: int) -> bytes:
    """A progressive JPEG, its last scan repeated: each takes a few bytes, and a walk over the whole picture."""
    data = saved(Image.new("L", (4000, 4000), 128), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xc4") : -2]
    return data[:-2] + scan * count + data[-2:]


def jpegs() -> Iterator[Hazard]:
    base = saved(plain(), "JPEG", quality=95)
    yield good("progressive.jpg", "jpeg", saved(plain(), "JPEG", quality=95, progressive=True), tolerance=4)
    yield good("arithmetic.jpg", "jpeg", ARITHMETIC, tolerance=4, size=(16, 16))
    yield good("cmyk.jpg", "jpeg", saved(plain().convert("CMYK"), "JPEG", quality=95), tolerance=4)
    yield good("ycck.jpg", "jpeg", ycck(), tolerance=4)
    yield good("grey.jpg", "jpeg", saved(Image.new("L", (24, 16), 128), "JPEG"), GREY, 1)
    yield good("411.jpg", "jpeg", saved(plain(), "JPEG", quality=94, subsampling=2), tolerance=4)
    yield good("rgb.jpg", "jpeg", saved(plain(), "JPEG", quality=95, keep_rgb=True), tolerance=4)
    yield good("restart.jpg", "jpeg", saved(plain(), "JPEG", quality=95, restart_marker_blocks=1), tolerance=4)
    yield good("junk-after.jpg", "jpeg", base + b"\0 appended by a camera " * 400, tolerance=4)
    yield bad("junk-before.jpg", "jpeg", b"\r\n" + base, "not_a_picture")
    yield good("no-eoi.jpg", "jpeg", saved(plain(), "JPEG", quality=93)[:-2], tolerance=4)
    yield bad("no-last-byte.jpg", "jpeg", saved(noise(), "JPEG", quality=93)[:-3], "truncated")
    # A frame of motion JPEG: the decoder has to bring the tables of the standard.
    yield good("mjpeg.jpg", "jpeg", without_segments(base, 0xC4), tolerance=4)
    twelve = bytearray(base)
    twelve[twelve.index(b"\xff\xc0") + 4] = 12
    yield bad("12bit.jpg", "jpeg", bytes(twelve), "unsupported")
    yield bad("no-quantisation.jpg", "jpeg", without_segments(base, 0xDB), "broken")
    lossless = bytearray(base)
    lossless[lossless.index(b"\xff\xc0") + 1] = 0xC3
    yield bad("lossless.jpg", "jpeg", bytes(lossless), "unsupported")
    both = saved(plain(), "MPO", save_all=True, append_images=[plain(GREY)], quality=95)
    yield good("both-eyes.jpg", "jpeg", both, tolerance=4)


# Kinds of PNG


def adam7() -> bytes:
    """RED, interlaced: Pillow cannot write it."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b""
    for left, top, across, down in passes:
        width, height = len(range(left, 24, across)), len(range(top, 16, down))
        rows += (b"\0" + bytes(RED) * width) * height
    return png_of(24, 16, zlib.compress(rows), interlace=1)


def sixteen(*values: int) -> bytes:
    """Rows of a 16-bit PNG, each pixel these values."""
    return zlib.compress((b"\0" + struct.pack(f">{len(values)}H", *values) * 24) * 16)


def pngs() -> Iterator[Hazard]:
    yield good("1bit.png", "png", saved(Image.new("1", (24, 16), 1), "PNG"), WHITE)
    yield good("grey.png", "png", saved(Image.new("L", (24, 16), 128), "PNG"), GREY)
    yield good("16bit-grey.png", "png", png_of(24, 16, sixteen(128 * 257), bits=16, colour=0), GREY)
    yield good("16bit-rgb.png", "png", png_of(24, 16, sixteen(*(v * 257 for v in RED)), bits=16))
    # Of each sample the high byte is kept: 127.99 of 255 is 127, where rounding would give 128.
    yield good("16bit-rgb-odd.png", "png", png_of(24, 16, sixteen(*[0x7FFF] * 3), bits=16), (127, 127, 127))
    yield good("16bit-rgba.png", "png", png_of(24, 16, sixteen(65535, 0, 0, 0), bits=16, colour=6), WHITE)
    yield good("16bit-grey-alpha.png", "png", png_of(24, 16, sixteen(128 * 257, 65535), bits=16, colour=4), GREY)
    yield good("interlaced.png", "png", adam7())
    yield good("palette.png", "png", saved(quantised(), "PNG"), tolerance=1)
    yield good("palette-transparent.png", "png", saved(quantised(), "PNG", transparency=0), WHITE)
    yield good(
        "palette-half.png", "png", saved(quantised((0, 0, 0)), "PNG", transparency=bytes([128])), (127,) * 3
    )
    yield good("rgba.png", "png", saved(Image.new("RGBA", (24, 16), (*RED, 255)), "PNG"))
    yield good("rgba-hidden.png", "png", saved(Image.new("RGBA", (24, 16), (*RED, 0)), "PNG"), WHITE)
    yield good("la.png", "png", saved(Image.new("LA", (24, 16), (0, 128)), "PNG"), (127, 127, 127))
    key = png_chunk(b"tRNS", struct.pack(">HHH", *RED))
    yield good("colour-key.png", "png", png_of(24, 16, red_rows(), chunks=key), WHITE)
    yield good("grey-key.png", "png", saved(Image.new("L", (24, 16), 9), "PNG", transparency=9), WHITE)
    for bits in (1, 2, 4):
        rows = zlib.compress(bytes([0] + [255] * (24 * bits // 8)) * 16)
        yield good(f"{bits}bit-grey.png", "png", png_of(24, 16, rows, bits=bits, colour=0), WHITE)
        rows = zlib.compress(bytes(1 + 24 * bits // 8) * 16)
        black, white = (png_chunk(b"tRNS", struct.pack(">H", value)) for value in (0, 2**bits - 1))
        yield good(f"{bits}bit-key.png", "png", png_of(24, 16, rows, bits=bits, colour=0, chunks=black), WHITE)
        other = png_of(24, 16, rows, bits=bits, colour=0, chunks=white)
        yield good(f"{bits}bit-other-key.png", "png", other, (0, 0, 0))
    grey = png_of(24, 16, sixteen(9), bits=16, colour=0, chunks=png_chunk(b"tRNS", struct.pack(">H", 9)))
    yield good("16bit-grey-key.png", "png", grey, WHITE)
    deep = png_of(
        24, 16, sixteen(300, 40_000, 9), bits=16, chunks=png_chunk(b"tRNS", struct.pack(">HHH", 300, 40_000, 9))
    )
    yield good("16bit-rgb-key.png", "png", deep, WHITE)


def quantised(colour: Colour = RED) -> Image.Image:
    image = Image.new("P", (24, 16), 0)
    image.putpalette(bytes(colour) + bytes(765))
    return image


# Kinds of TIFF


def grey_tiff(order: str, bits: int, photometric: int, data: bytes, sample: int = 1) -> bytes:
    """24 × 16 grey pixels in one strip, as bytes."""
    short, long = 3, 4
    entries = [
        (256, short, 24),
        (257, short, 16),
        (258, short, bits),
        (259, short, 1),
        (262, short, photometric),
        (273, long, 200),
        (277, short, 1),
        (278, short, 16),
        (279, long, len(data)),
        (339, short, sample),
    ]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    for tag, kind, value in entries:
        head += struct.pack(order + ("HHIHxx" if kind == short else "HHII"), tag, kind, 1, value)
    return head.ljust(200, b"\0") + data


def tiff(values, photometric, *, bits=None, sample_format=1, extra=(), order="<", planar=False, profile=b""):
    """A TIFF around an array (H, W, N), in one strip; of each plane, if planar."""
    height, width, samples = values.shape
    raw = values.astype(values.dtype.newbyteorder(order))
    planes = [raw[..., i].tobytes() for i in range(samples)] if planar else [raw.tobytes()]
    entries = [
        (256, [width], "I"),
        (257, [height], "I"),
        (258, [bits or values.dtype.itemsize * 8] * samples, "H"),
        (259, [1], "H"),
        (262, [photometric], "H"),
        (273, [sum(map(len, planes[:i])) + 4096 for i in range(len(planes))], "I"),
        (277, [samples], "H"),
        (278, [height], "I"),
        (279, [len(plane) for plane in planes], "I"),
        (284, [2 if planar else 1], "H"),
        (339, [sample_format] * samples, "H"),
    ]
    if extra:
        entries.insert(-1, (338, list(extra), "H"))
    if profile:
        entries.append((34675, list(profile), "B"))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    long, at = b"", 2048
    for tag, numbers, kind in entries:
        data = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(data) > 4:
            data, long = struct.pack(order + "I", at + len(long)), long + data + bytes(len(data) % 2)
        head += struct.pack(order + "HHI", tag, {"B": 7, "H": 3, "I": 4}[kind], len(numbers)) + data.ljust(
            4, b"\0"
        )
    return (head.ljust(2048, b"\0") + long).ljust(4096, b"\0") + b"".join(planes)


def ramp(samples, top, dtype=np.uint16):
    """(16, 16, samples), from 0 to `top`, another in each sample."""
    shares = np.linspace(0, 1, 256).reshape(16, 16)
    turns = [np.rot90(shares, i) for i in range(samples)]
    return np.rint(np.stack(turns, axis=2) * top).astype(dtype)


def deep_png(values, colour, chunks=b""):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_of(values.shape[1], values.shape[0], zlib.compress(rows), bits=16, colour=colour, chunks=chunks)


def deep_tiffs() -> Iterator[Hazard]:
    """Layouts that Pillow does not read, or reads wrongly."""
    one = np.ones((16, 24, 1))
    red = (one * np.array(RED)).astype(np.uint16)
    yield good("16bit-planes.tif", "tiff", tiff(red * 257, 2, planar=True))
    yield good("16bit-planes-big-endian.tif", "tiff", tiff(red * 257, 2, planar=True, order=">"))
    yield good("16bit-little-used.tif", "tiff", tiff(np.repeat(one * 3000, 3, 2).astype(np.uint16), 2), WHITE)
    yield good("3-greys.tif", "tiff", tiff(red.astype(np.uint8), 1))
    yield good("float-rgb.tif", "tiff", tiff((red / 255).astype(np.float32), 2, sample_format=3))
    yield good("32bit-unsigned.tif", "tiff", tiff((one * (2**32 - 1)).astype(np.uint32), 1), WHITE)
    hidden = np.concatenate([red * 257, np.zeros((16, 24, 1), np.uint16)], axis=2)
    yield good("16bit-rgba-hidden.tif", "tiff", tiff(hidden, 2, extra=(2,)), WHITE)
    yield bad("13-bands.tif", "tiff", tiff(np.repeat(red, 5, axis=2)[..., :13], 1), "unsupported")
    yield bad("complex.tif", "tiff", tiff(one.astype(np.complex64), 1, sample_format=6), "unsupported")


def tiffs() -> Iterator[Hazard]:
    count = 24 * 16
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"):
        name = compression.removeprefix("tiff_")
        yield good(
            f"{name}.tif", "tiff", saved(plain(), "TIFF", compression=None if name == "raw" else compression)
        )
    yield good("jpeg.tif", "tiff", saved(plain(), "TIFF", compression="jpeg"), tolerance=6)
    yield good("16bit.tif", "tiff", grey_tiff("<", 16, 1, struct.pack("<H", 128 * 257) * count), GREY)
    yield good("16bit-big-endian.tif", "tiff", grey_tiff(">", 16, 1, struct.pack(">H", 128 * 257) * count), GREY)
    yield good("16bit-white-is-0.tif", "tiff", grey_tiff("<", 16, 0, struct.pack("<H", 127 * 257) * count), GREY)
    yield good("8bit-white-is-0.tif", "tiff", grey_tiff("<", 8, 0, b"\x7f" * count), GREY)
    twelve = b"\x80\x88\x08" * (count // 2)  # two pixels of 0x808
    yield good("12bit.tif", "tiff", grey_tiff("<", 12, 1, twelve), GREY, 1)
    yield good("16bit-signed.tif", "tiff", grey_tiff("<", 16, 1, struct.pack("<h", 200) * count, 2), (200,) * 3)
    yield good("float-0-1.tif", "tiff", grey_tiff("<", 32, 1, struct.pack("<f", 128 / 255) * count, 3), GREY)
    yield good("float-0-255.tif", "tiff", grey_tiff("<", 32, 1, struct.pack("<f", 128.0) * count, 3), GREY)
    nan = struct.pack("<f", float("nan")) * (count // 2) + struct.pack("<f", float("inf")) * (count // 2)
    yield good("float-nan.tif", "tiff", grey_tiff("<", 32, 1, nan, 3), (0, 0, 0))
    yield good("32bit.tif", "tiff", saved(Image.new("I", (24, 16), 128 * 257), "TIFF"), GREY)
    yield good("1bit.tif", "tiff", saved(Image.new("1", (24, 16), 1), "TIFF"), WHITE)
    yield good("fax.tif", "tiff", saved(Image.new("1", (24, 16), 1), "TIFF", compression="group4"), WHITE)
    yield good("palette.tif", "tiff", saved(quantised(), "TIFF"))
    yield good("rgba-hidden.tif", "tiff", saved(Image.new("RGBA", (24, 16), (*RED, 0)), "TIFF"), WHITE)
    yield good("la.tif", "tiff", saved(Image.new("LA", (24, 16), (0, 128)), "TIFF"), (127, 127, 127))
    yield good("cmyk.tif", "tiff", saved(plain().convert("CMYK"), "TIFF"), tolerance=2)
    yield good("ycbcr.tif", "tiff", saved(plain().convert("YCbCr"), "TIFF"), tolerance=2)
    yield good("lab.tif", "tiff", saved(lab(), "TIFF"), tolerance=3)
    pages = [plain(GREY), plain(WHITE)]
    yield good("pages.tif", "tiff", saved(plain(), "TIFF", save_all=True, append_images=pages))
    yield good("big.tif", "tiff", saved(plain(), "TIFF", big_tiff=True))
    loop = bytearray(grey_tiff("<", 8, 1, b"\x80" * count))
    loop[130:134] = struct.pack("<I", 8)  # the next page is this one
    yield good("loop.tif", "tiff", bytes(loop), GREY)


def lab() -> Image.Image:
    srgb, space = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.applyTransform(plain(), ImageCms.buildTransform(srgb, space, "RGB", "LAB"))
    assert converted is not None
    return converted


def bmp(rows, bits, *, size=(2, 2), header=40, masks=(), compression=0, palette=b""):
    """A BMP around rows that are upside down and padded already. palette: blue, green, red, 0 of each colour."""
    info = struct.pack("<IiiHHIIiiII", header, *size, 1, bits, compression, len(rows), 0, 0, 0, 0)
    info += struct.pack(f"<{len(masks)}I", *masks)
    info = info.ljust(header, b"\0") + palette
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(rows), 0, 0, 14 + len(info)) + info + rows


def bitmaps() -> Iterator[Hazard]:
    yield good("24bit.bmp", "bmp", saved(plain(), "BMP", dpi=(72, 72)))
    yield good("1bit.bmp", "bmp", saved(Image.new("1", (24, 16), 1), "BMP"), WHITE)
    yield good("palette.bmp", "bmp", saved(quantised(), "BMP"))
    top_down = bytearray(saved(plain(), "BMP"))
    top_down[22:26] = struct.pack("<i", -16)
    yield good("top-down.bmp", "bmp", bytes(top_down))
    size, blank = (24, 16), bytes((*RED[::-1], 0)) * 384
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    yield good("alpha-unwritten.bmp", "bmp", bmp(blank, 32, size=size, header=108, masks=masks, compression=3))
    seen = blank[:-1] + b"\xff"
    other = bmp(seen, 32, size=size, header=124, masks=masks, compression=3)
    yield Hazard("alpha.bmp", "bmp", other, corners=(WHITE,) * 3 + (WHITE,), size=size)
    deep = struct.pack("<I", 800 << 20 | 120 << 10 | 160) * 384
    strange = bmp(deep, 32, size=size, masks=(0x3FF00000, 0xFFC00, 0x3FF), compression=3)
    yield good("10bit-masks.bmp", "bmp", strange, tolerance=1)
    runs = b"\x18\0\0\0" * 16 + b"\0\1"
    yield good("rle8.bmp", "bmp", bmp(runs, 8, size=size, compression=1, palette=bytes((*RED[::-1], 0)) * 256))
    yield bad("png-within.bmp", "bmp", bmp(bytes(99), 24, size=size, compression=5), "unsupported")


# Files with more than one frame


def animations() -> Iterator[Hazard]:
    rest = {"save_all": True, "append_images": [plain(GREY), plain(WHITE)], "duration": 100}
    yield good("animated.gif", "animation", saved(plain(), "GIF", **rest), tolerance=2)
    yield good("animated.webp", "animation", saved(plain(), "WEBP", lossless=True, **rest))
    yield good("animated.png", "animation", saved(plain(), "PNG", **rest))
    yield good("animated.avif", "animation", saved(plain(), "AVIF", quality=95, **rest), tolerance=6)
    hidden = saved(plain(), "PNG", default_image=True, save_all=True, append_images=[plain(GREY)] * 2)
    yield good("default-image.png", "animation", hidden)
    yield good("transparent.gif", "animation", saved(quantised(), "GIF", transparency=0), WHITE)
    small = bytearray(saved(quantised(), "GIF"))
    at = small.index(b"\x2c\0\0\0\0")
    small[6:10] = struct.pack("<HH", 48, 32)
    small[at + 1 : at + 5] = struct.pack("<HH", 12, 8)
    yield Hazard("small-frame.gif", "animation", bytes(small), corners=(RED,) * 4, size=(48, 32))


def modern() -> Iterator[Hazard]:
    yield good("lossy.webp", "webp, avif", saved(plain(), "WEBP", quality=95), tolerance=6)
    yield good("lossless.webp", "webp, avif", saved(plain(size=(25, 16)), "WEBP", lossless=True), size=(25, 16))
    yield good(
        "alpha.webp", "webp, avif", saved(Image.new("RGBA", (24, 16), (*RED, 0)), "WEBP", lossless=True), WHITE
    )
    yield good("plain.avif", "webp, avif", saved(plain(), "AVIF", quality=95), tolerance=6)
    yield good("alpha.avif", "webp, avif", saved(Image.new("RGBA", (24, 16), (*RED, 0)), "AVIF"), WHITE)


# What a camera says of a picture


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def orientations() -> Iterator[Hazard]:
    a, b, c, d = QUARTERS
    upright = {
        1: (a, b, c, d),
        2: (b, a, d, c),
        3: (d, c, b, a),
        4: (c, d, a, b),
        5: (a, c, b, d),
        6: (c, a, d, b),
        7: (d, b, c, a),
        8: (b, d, a, c),
    }
    for orientation, corners in upright.items():
        size = (48, 32) if orientation < 5 else (32, 48)
        data = saved(quarters(), "JPEG", quality=95, subsampling=0, exif=turned(orientation))
        yield Hazard(f"turned{orientation}.jpg", "orientation", data, corners=corners, size=size, tolerance=12)
    for format in ("PNG", "WEBP", "TIFF", "AVIF"):
        options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "AVIF" else {}
        data = saved(quarters(), format, exif=turned(6), **options)
        name = f"turned6.{format.lower().replace('tiff', 'tif')}"
        yield Hazard(name, "orientation", data, corners=upright[6], size=(32, 48), tolerance=16)
    data = saved(quarters(), "JPEG", quality=95, subsampling=0, exif=turned(99))
    yield Hazard("turned99.jpg", "orientation", data, corners=QUARTERS, size=(48, 32), tolerance=12)


def metadata() -> Iterator[Hazard]:
    exif = {
        "broken": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "rubbish": b"Exif\0\0" + bytes(range(256)),
        "nothing": b"Exif\0\0",
        "huge": b"Exif\0\0II*\0\x08\0\0\0" + b"\xff\xff" + bytes(range(256)) * 250,
        "loop": b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8),
    }
    for name, data in exif.items():
        yield good(f"exif-{name}.jpg", "metadata", saved(plain(), "JPEG", quality=95, exif=data), tolerance=4)
    yield good("exif-rubbish.png", "metadata", saved(plain(), "PNG", exif=exif["rubbish"]))
    yield good("exif-broken.webp", "metadata", saved(plain(), "WEBP", lossless=True, exif=exif["broken"]))
    profiles = {
        "srgb": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "p3": display_p3(),
        "broken": b"no profile at all" * 9,
    }
    for name, profile in profiles.items():
        yield good(
            f"icc-{name}.jpg", "metadata", saved(plain(), "JPEG", quality=95, icc_profile=profile), tolerance=4
        )
        yield good(f"icc-{name}.png", "metadata", saved(plain(), "PNG", icc_profile=profile))
        yield good(f"icc-{name}.webp", "metadata", saved(plain(), "WEBP", lossless=True, icc_profile=profile))
        yield good(f"icc-{name}.tif", "metadata", saved(plain(), "TIFF", icc_profile=profile))
    compressed = b"a\0\0not a zlib stream"
    yield good("icc-unreadable.png", "metadata", png_of(24, 16, red_rows(), chunks=png_chunk(b"iCCP", compressed)))
    unknown = b"a\0\7" + zlib.compress(b"x")
    yield good("icc-unknown.png", "metadata", png_of(24, 16, red_rows(), chunks=png_chunk(b"iCCP", unknown)))


def fixed(*values: float) -> bytes:
    """Numbers as ICC has them."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def display_p3() -> bytes:
    """An ICC profile with the primaries of Display P3 (D50) and the curve of gamma 2.2."""
    tags = {
        b"rXYZ": b"XYZ \0\0\0\0" + fixed(0.5151, 0.2412, -0.0011),
        b"gXYZ": b"XYZ \0\0\0\0" + fixed(0.2919, 0.6922, 0.0419),
        b"bXYZ": b"XYZ \0\0\0\0" + fixed(0.1572, 0.0666, 0.7841),
        b"rTRC": b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(2.2 * 256)),
    }
    tags[b"gTRC"] = tags[b"bTRC"] = tags[b"rTRC"]
    return icc_profile(b"RGB ", tags)


def icc_profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of a monitor, for colours of this space."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249), **tags}
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(body), b"none", 0x04000000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + table + body


# Sizes


def shapes() -> Iterator[Hazard]:
    for width, height in ((1, 1), (1, 65_000), (65_000, 1), (2, 30_000), (30_000, 3), (5, 3)):
        image = plain(RED, (width, height))
        yield good(f"{width}x{height}.png", "shape", saved(image, "PNG"), size=(width, height))
    long = saved(plain(RED, (1, 65_000)), "JPEG", quality=95)
    yield good("1x65000.jpg", "shape", long, tolerance=4, size=(1, 65_000))
    wide = saved(plain(RED, (16_383, 1)), "WEBP", lossless=True)
    yield good("16383x1.webp", "shape", wide, size=(16_383, 1))


HEIC_HEADER = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic")


def heics() -> Iterator[Hazard]:
    """Only where pillow-heif is installed."""
    try:
        from pillow_heif import from_pillow
    except ImportError:
        return

    def heic(image: Image.Image, **options) -> bytes:
        buffer = io.BytesIO()
        from_pillow(image).save(buffer, quality=95, **options)
        return buffer.getvalue()

    yield good("plain.heic", "heic", heic(plain(size=(64, 64))), tolerance=6, size=(64, 64))
    a, b, c, d = QUARTERS
    data = heic(quarters((96, 64)), exif=turned(6).tobytes())
    yield Hazard("turned6.heic", "heic", data, corners=(c, a, d, b), size=(64, 96), tolerance=24)
    hidden = heic(Image.new("RGBA", (64, 64), (*RED, 0)))
    yield good("alpha.heic", "heic", hidden, WHITE, 6, (64, 64))
    whole = heic(noise(size=(64, 64)))
    for sixteenth in range(1, 16):
        yield bad(f"cut{sixteenth:02}.heic", "heic", whole[: len(whole) * sixteenth // 16], "truncated")
