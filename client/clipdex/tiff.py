"""TIFFs that Pillow does not read, or reads wrongly: deep samples, whole planes, grey samples that are colours.

Only what is written here is done here: the layout of samples and their scale. Strips and tiles are unpacked by
Pillow's libtiff, each as a small TIFF of its own that holds 8-bit greys as wide as its rows have bytes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from clipdex.deep import SampleRange, full_scale, to_eight_bits
from clipdex.errors import ImageError
from clipdex.flatten import over, strips

__all__ = ["DeepTiff", "Layout", "is_raw_photograph", "read_layout"]

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_PHOTOMETRIC = {
    0: "grey",
    1: "grey",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "ink",
    6: "YCbCr",
    8: "L*a*b*",
    9: "L*a*b*",
    10: "L*a*b*",
    32803: "raw sensor",
    32844: "LogL",
    32845: "LogLuv",
    34892: "raw linear",
}
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4
_FORMATS = {1: "", 2: "signed ", 3: "float ", 4: "", 5: "complex ", 6: "complex float "}

# Those that unpack to the bytes of the samples, whatever these are.
_OF_BYTES = {
    1: "none",
    5: "LZW",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34925: "LZMA",
    50000: "Zstandard",
}
_OF_PICTURES = {2: "CCITT", 3: "fax group 3", 4: "fax group 4", 6: "old JPEG", 7: "JPEG"}
_OTHERS = {
    32809: "ThunderScan",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34676: "SGI Log",
    34677: "SGI Log",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}

# What Pillow knows samples beyond the colours to be, by photometric interpretation.
_PILLOWS: dict[int, tuple[tuple[int, ...], ...]] = {
    0: ((),),
    1: ((), (0,), (1,), (2,)),
    2: ((), (0,), (0, 0), (0, 0, 0), (1,), (1, 0), (1, 0, 0), (2,), (2, 0), (2, 0, 0)),
    5: ((), (0,), (0, 0)),
}

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_MOST_SAMPLES = 64
_MOST_BLOCKS, _LARGEST_BLOCK, _SMALL_BLOCK = 1 << 20, 1 << 31, 1 << 26  # of strips or tiles; in bytes

Samples = npt.NDArray[Any]


@dataclass(frozen=True)
class Layout:
    """What the first page of a TIFF says of its pixels.

    sample_format: 1 unsigned, 2 signed, 3 floating point, 4 undefined; None where samples differ in it or in bits.
    extra: what the samples beyond the colours are: 0 unsaid, 1 premultiplied alpha, 2 alpha.
    subsampled: Cb and Cr are fewer than Y. is_big_endian_big: a BigTIFF with the highest byte first.
    block: (width, height) of a strip or tile. offsets, lengths: of each of these, a plane after another.
    """

    order: str
    width: int
    height: int
    bits: int
    sample_format: int | None
    samples: int
    photometric: int
    extra: tuple[int, ...]
    compression: int
    predictor: int
    fill_order: int
    planar: bool
    tiled: bool
    block: tuple[int, int]
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    orientation: int
    profile: bytes | None
    subsampled: bool
    is_big_endian_big: bool

    @property
    def is_pillows(self) -> bool:
        """Whether Pillow is to read it: samples of up to 8 bits side by side, and JPEG and fax within TIFF."""
        if self.compression not in _OF_BYTES:
            return self.bits <= 8
        if self.photometric not in (0, 1, 2, 3, 5, 6, 8):
            return False
        if self.is_big_endian_big or self.sample_format != _UNSIGNED:
            return False
        if self.photometric == _YCBCR:  # it does not unpack what is not compressed
            return self.bits == 8 and (self.compression != 1 or not (self.subsampled or self.planar))
        if self.photometric in (_PALETTE, _LAB):
            return self.bits <= 8 and not self.planar
        if self.planar or self.fill_order != 1:
            return False
        first = {_RGB: 3, _CMYK: 4}.get(self.photometric, 1)
        if self.samples == first == 1:
            return self.bits in (1, 2, 4, 8) and not self.extra
        return (
            self.bits == 8 and len(self.extra) == self.samples - first and self.extra in _PILLOWS[self.photometric]
        )

    @property
    def is_of_known_compression(self) -> bool:
        """Whether its pixels can be unpacked, by Pillow or here."""
        return self.compression in _OF_BYTES or self.compression in _OF_PICTURES

    @property
    def end(self) -> int:
        """Where the last of its strips and tiles ends."""
        return max((start + length for start, length in zip(self.offsets, self.lengths, strict=False)), default=0)

    @property
    def is_ours(self) -> bool:
        """Whether it can be read here."""
        of_float = self.sample_format == _FLOAT
        return (
            self.compression in _OF_BYTES
            and self.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK)
            and self.sample_format in (_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED)
            and (self.bits in (16, 32, 64) if of_float else 1 <= self.bits <= 16 or self.bits in (32, 64))
            and self._predictor_is_ours()
            and self._blocks_make_sense()
            and self.colours is not None
        )

    def _predictor_is_ours(self) -> bool:
        if self.predictor == 3:
            return self.sample_format == _FLOAT
        return self.predictor == 1 or (self.predictor == 2 and self.bits in (8, 16, 32, 64))

    def _blocks_make_sense(self) -> bool:
        """Whether strips and tiles are neither so many nor so large that unpacking them is an attack."""
        each = self.block[0] * self.block[1] * (1 if self.planar else self.samples) * self.bits // 8
        count = -(-self.width // self.block[0]) * -(-self.height // self.block[1])
        of_picture = self.width * self.height * self.samples * self.bits // 8
        return count <= _MOST_BLOCKS and each <= min(_LARGEST_BLOCK, max(4 * of_picture, _SMALL_BLOCK))

    @property
    def colours(self) -> tuple[int, ...] | None:
        """Which samples are grey, or red, green and blue, or the four inks; None where it is not said."""
        if self.photometric == _CMYK:
            return (0, 1, 2, 3) if self.samples >= 4 and self.sample_format != _FLOAT else None
        if self.photometric == _RGB:
            return (0, 1, 2) if self.samples >= 3 else None
        first = self.samples - sum(1 for kind in self.extra if kind in (1, 2))
        if first <= 2:
            return (0,)
        # Satellite pictures in colour are often written as 3 or 4 greys.
        return (0, 1, 2) if first <= 4 else None

    @property
    def alpha(self) -> int | None:
        """Which sample is alpha, if any."""
        start = self.samples - len(self.extra)
        return next((start + i for i, kind in enumerate(self.extra) if kind in (1, 2)), None)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the samples, once unpacked."""
        size = next(size for size in (8, 16, 32, 64) if size >= self.bits)
        kind = {_SIGNED: "i", _FLOAT: "f"}.get(self.sample_format or _UNSIGNED, "u")
        return np.dtype(f"{kind}{size // 8}")

    def __str__(self) -> str:
        photometric = _PHOTOMETRIC.get(self.photometric, f"photometric {self.photometric}")
        kind = "mixed " if self.sample_format is None else _FORMATS.get(self.sample_format, "strange ")
        methods = {**_OF_BYTES, **_OF_PICTURES, **_OTHERS}
        method = methods.get(self.compression, f"method {self.compression}")
        packed = "" if self.compression == 1 else f", compressed with {method}"
        predicted = "" if self.predictor == 1 else f", predictor {self.predictor}"
        planes = ", plane by plane" if self.planar and self.samples > 1 else ""
        noun = "sample" if self.samples == 1 else "samples"
        return (
            f"a TIFF of {self.samples} {photometric} {noun} of {self.bits} {kind}bits{planes}{packed}{predicted}"
        )


def read_layout(data: bytes) -> Layout | None:
    """The layout of a TIFF's first page; None where it makes no sense, or `data` is no TIFF."""
    if data[:4] not in _MAGIC:
        return None
    try:
        tags = _directory(data)
        return _layout(tags, "<" if data.startswith(b"II") else ">")
    except MemoryError:
        raise
    except Exception:  # Pillow raises nearly anything over a malformed directory, and will say what
        return None


def is_raw_photograph(data: bytes) -> str | None:
    """The name of the camera's own format, if that is what this TIFF is: its first page is but a preview."""
    if data[:4] not in _MAGIC:
        return None
    if data[8:10] == b"CR":
        return "a raw photograph (CR2)"
    try:
        tags = _directory(data)
        if 50706 in tags:
            return "a raw photograph (DNG)"
        if tags.get(262) in (32803, 34892):
            return "a raw photograph"
        # NEF, ARW, PEF and their like: a thumbnail comes first, what the sensor saw is in a directory below it.
        if int(tags.get(254, 0)) & 1 and 330 in tags and 271 in tags:
            return f"a raw photograph ({str(tags[271]).strip()[:40]})"
    except MemoryError:
        raise
    except Exception:
        return None
    return None


def _directory(data: bytes) -> ImageFileDirectory_v2:
    tags = ImageFileDirectory_v2(data[:16] if data[2] == 43 else data[:8])
    start = tags.next
    if data.startswith(b"MM\0+"):  # Pillow takes it for a small one
        tags._bigtiff = True
        start = int.from_bytes(data[8:16], "big")
    file = io.BytesIO(data)
    file.seek(start)
    tags.load(file)
    return tags


def _layout(tags: ImageFileDirectory_v2, order: str) -> Layout | None:
    def numbers(tag: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        value = tags.get(tag, default)
        return tuple(int(each) for each in value) if isinstance(value, tuple) else (int(value),)

    def number(tag: int, default: int) -> int:
        return (numbers(tag, (default,)) or (default,))[0]

    width, height, samples = number(256, 0), number(257, 0), number(277, 1)
    tiled = 324 in tags
    block = (number(322, 0), number(323, 0)) if tiled else (width, min(height, number(278, height)))
    if min(width, height, samples, *block) < 1 or samples > _MOST_SAMPLES:
        return None
    bits, formats = set(numbers(258, (1,))[:samples]), set(numbers(339, (1,))[:samples])
    extra = numbers(338)[:samples]
    photometric = number(262, 0)
    profile = tags.get(34675)
    return Layout(
        order=order,
        width=width,
        height=height,
        bits=max(bits),
        sample_format=formats.pop() if len(bits) == 1 and len(formats) == 1 else None,
        samples=samples,
        photometric=photometric,
        extra=extra,
        compression=number(259, 1),
        predictor=number(317, 1),
        fill_order=number(266, 1),
        planar=number(284, 1) == 2 and samples > 1,
        tiled=tiled,
        block=block,
        offsets=numbers(324 if tiled else 273),
        lengths=numbers(325 if tiled else 279),
        orientation=number(274, 1),
        profile=profile if isinstance(profile, bytes) else None,
        subsampled=numbers(530, (2, 2)) != (1, 1),
        is_big_endian_big=order == ">" and tags._bigtiff,
    )


class DeepTiff:
    """The first page of a TIFF whose layout is `Layout.is_ours`."""

    def __init__(self, data: bytes, layout: Layout, where: str) -> None:
        self.size = layout.width, layout.height
        self.orientation = layout.orientation
        self.profile = layout.profile
        self._data, self._layout, self._where = data, layout, where

    def to_rgb(self, fill: tuple[int, int, int]) -> Image.Image:
        """Its pixels, not turned upright: an RGB image, or CMYK where it is of inks."""
        layout = self._layout
        assert layout.colours is not None
        used, alpha_used = SampleRange(), SampleRange()
        inks = layout.photometric == _CMYK
        if not inks:
            for _, part in self._parts():
                used.add(part[..., : len(layout.colours)])
                if layout.alpha is not None:
                    alpha_used.add(part[..., -1])
        full = full_scale(layout.dtype, layout.bits, used.top)
        white = used.white(full)
        # Alpha is a share of its own whole; where colours use little of theirs, the same was done to it.
        alpha_full = full_scale(layout.dtype, layout.bits, alpha_used.top)
        alpha_white = alpha_used.white(alpha_full) if white < full else alpha_full
        image = Image.new("CMYK" if inks else "RGB", self.size, fill if not inks else 0)
        for (left, top), part in self._parts():
            colours = self._eight(part[..., : len(layout.colours)], white, full)
            if inks:
                tile = Image.fromarray(colours, "CMYK")
            elif layout.alpha is None:
                tile = Image.fromarray(colours).convert("RGB")
            else:
                tile = self._laid_over(colours, to_eight_bits(part[..., -1], alpha_white), fill)
            image.paste(tile, (left, top))
        return image

    def _eight(self, part: Samples, white: float, full: float) -> npt.NDArray[np.uint8]:
        layout = self._layout
        if layout.dtype.kind == "u" and layout.bits == 16 and part.shape[-1] > 1 and white == full == 65535:
            eight = (part >> 8).astype(np.uint8)  # the high byte, as Pillow takes it
        elif layout.dtype.kind == "u" and layout.bits < 8:
            eight = to_eight_bits(part, 2**layout.bits - 1)
        elif layout.photometric == _CMYK:
            eight = to_eight_bits(part, 2 ** min(layout.bits, 32) - 1)
        elif layout.bits == 8:
            eight = to_eight_bits(part, 255)
        else:
            eight = to_eight_bits(part, white)
        if layout.photometric == _WHITE_IS_ZERO:
            eight = np.uint8(255) - eight
        return np.ascontiguousarray(eight[..., 0] if part.shape[-1] == 1 else eight)

    def _laid_over(
        self, colours: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8], fill: tuple[int, int, int]
    ) -> Image.Image:
        if colours.ndim == 2:
            colours = np.repeat(colours[..., None], 3, axis=2)
        premultiplied = self._layout.extra[self._layout.alpha - self._layout.samples] == 1  # type: ignore[operator]
        rgba = Image.frombuffer(
            "RGBA",
            (colours.shape[1], colours.shape[0]),
            np.concatenate([colours, alpha[..., None]], axis=2).tobytes(),
            "raw",
            "RGBa" if premultiplied else "RGBA",
            0,
            1,
        )
        return over(rgba, fill)

    def _parts(self) -> Iterator[tuple[tuple[int, int], Samples]]:
        """((left, top), (rows, columns, colours and then alpha)) over the whole picture, a few rows at a time."""
        layout = self._layout
        colours, alpha = layout.colours, layout.alpha
        assert colours is not None
        wanted = [*colours] + ([alpha] if alpha is not None else [])
        across = -(-layout.width // layout.block[0])
        count = across * -(-layout.height // layout.block[1])
        for i in range(count):
            left, top = i % across * layout.block[0], i // across * layout.block[1]
            columns = min(layout.block[0], layout.width - left)
            rows = min(layout.block[1], layout.height - top)
            planes = [self._unpacked(i + count * plane, rows) for plane in (wanted if layout.planar else [0])]
            in_row = layout.block[0] * (1 if layout.planar else layout.samples)
            for _, first, _, last in strips((in_row, rows)):
                parts = [self._samples(plane[first:last]) for plane in planes]
                part = np.concatenate(parts, axis=2) if layout.planar else parts[0][..., wanted]
                yield (left, top + first), part[:, :columns]

    def _unpacked(self, i: int, rows: int) -> npt.NDArray[np.uint8]:
        """The bytes of a strip or tile: (rows, bytes of a row)."""
        layout = self._layout
        in_row = (layout.block[0] * layout.bits * (1 if layout.planar else layout.samples) + 7) // 8
        if i >= len(layout.offsets):
            raise ValueError("it lacks strips or tiles")
        start = layout.offsets[i]
        length = layout.lengths[i] if i < len(layout.lengths) else rows * in_row
        if start + length > len(self._data):
            raise ImageError(f"{self._where}: it ends early: a strip or tile is cut short", reason="truncated")
        packed = memoryview(self._data)[start : start + length]
        if layout.compression == 1:
            if length < rows * in_row:
                raise ValueError("a strip or tile is too short")
            plain = bytes(packed).translate(_REVERSED) if layout.fill_order == 2 else packed
            return np.frombuffer(plain, dtype=np.uint8, count=rows * in_row).reshape(rows, in_row)
        return _unpack(packed, layout, rows, in_row)

    def _samples(self, rows: npt.NDArray[np.uint8]) -> Samples:
        """The samples in rows of bytes: (rows, block's width, samples)."""
        layout = self._layout
        each = 1 if layout.planar else layout.samples
        shape = (len(rows), layout.block[0], each)
        bits, item = layout.bits, layout.dtype.itemsize
        if layout.predictor == 3:
            sums = np.cumsum(rows.reshape(len(rows), -1, each), axis=1, dtype=np.uint8)
            planes = sums.reshape(len(rows), item, -1).transpose(0, 2, 1)
            return np.ascontiguousarray(planes).view(f">f{item}").astype(layout.dtype).reshape(shape)
        if bits not in (8, 16, 32, 64):
            return _of_bits(rows, bits, layout.block[0] * each).reshape(shape).astype(layout.dtype)
        stored = np.ascontiguousarray(rows).view(f"{layout.order}u{item}").reshape(shape)
        values = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        if layout.predictor == 2:
            values = np.cumsum(values, axis=1, dtype=values.dtype)
        return values.view(layout.dtype)


def _of_bits(rows: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint16]:
    """`count` numbers of so many bits from each row of bytes, the highest bit first: uint16 (rows, count)."""
    single = np.unpackbits(rows, axis=1, count=bits * count).reshape(len(rows), count, bits)
    values = np.zeros(single.shape[:2], dtype=np.uint16)
    for place in range(bits):
        values = (values << 1 | single[..., place]).astype(np.uint16)
    return values


def _unpack(packed: memoryview, layout: Layout, rows: int, in_row: int) -> npt.NDArray[np.uint8]:
    """Let libtiff unpack a strip or tile, as the one strip of a TIFF of 8-bit greys."""
    entries = [
        (256, in_row),
        (257, rows),
        (258, 8),
        (259, layout.compression),
        (262, _BLACK_IS_ZERO),
        (266, layout.fill_order),
        (273, 8),
        (277, 1),
        (278, rows),
        (279, len(packed)),
    ]
    at = 8 + len(packed) + len(packed) % 2
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, n) for tag, n in entries
    )
    small = b"".join((b"II*\0", struct.pack("<I", at), packed, bytes(len(packed) % 2), directory, bytes(4)))
    with TiffImageFile(io.BytesIO(small)) as image:
        # Made here, or Pillow would count these bytes as the pixels of a picture, and find them too many.
        image.im = Image.new("L", (in_row, rows)).im
        image.load()
        return np.asarray(image)
