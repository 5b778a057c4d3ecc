"""The layout of a TIFF's pixels, and the choice of its decoder."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

__all__ = ["BLACK_IS_ZERO", "CMYK", "WHITE_IS_ZERO", "Layout", "is_raw_photograph", "read_layout"]

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

WHITE_IS_ZERO, BLACK_IS_ZERO, _RGB, _PALETTE, CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
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

# Compressions that decompress to the bytes of the samples, whatever their type.
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

# The extra samples that Pillow supports, by photometric interpretation.
_PILLOWS: dict[int, tuple[tuple[int, ...], ...]] = {
    0: ((),),
    1: ((), (0,), (1,), (2,)),
    2: ((), (0,), (0, 0), (0, 0, 0), (1,), (1, 0), (1, 0, 0), (2,), (2, 0), (2, 0, 0)),
    5: ((), (0,), (0, 0)),
}

_MOST_SAMPLES = 64
_MOST_BLOCKS, _LARGEST_BLOCK, _SMALL_BLOCK = 1 << 20, 1 << 31, 1 << 26  # of strips or tiles; in bytes


@dataclass(frozen=True)
class Layout:
    """The layout of pixels in a TIFF's first page.

    sample_format: 1 unsigned, 2 signed, 3 floating point, 4 undefined; None if samples differ in it or in bits.
    extra: the kinds of samples beyond the colours: 0 unspecified, 1 premultiplied alpha, 2 alpha.
    subsampled: Cb and Cr are fewer than Y. is_big_endian_big: a BigTIFF with the highest byte first.
    block: (width, height) of a strip or tile. offsets, lengths: of each strip or tile, plane after plane.
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
        """True if Pillow should read it: interleaved samples of up to 8 bits, and JPEG and fax within TIFF."""
        if self.compression not in _OF_BYTES:
            return self.bits <= 8
        if self.photometric not in (0, 1, 2, 3, 5, 6, 8):
            return False
        if self.is_big_endian_big or self.sample_format != _UNSIGNED:
            return False
        if self.photometric == _YCBCR:  # Pillow cannot read uncompressed YCbCr in these forms
            return self.bits == 8 and (self.compression != 1 or not (self.subsampled or self.planar))
        if self.photometric in (_PALETTE, _LAB):
            return self.bits <= 8 and not self.planar
        if self.planar or self.fill_order != 1:
            return False
        first = {_RGB: 3, CMYK: 4}.get(self.photometric, 1)
        if self.samples == first == 1:
            return self.bits in (1, 2, 4, 8) and not self.extra
        return (
            self.bits == 8 and len(self.extra) == self.samples - first and self.extra in _PILLOWS[self.photometric]
        )

    @property
    def is_of_known_compression(self) -> bool:
        """True if Pillow or clipdex can decompress its pixels."""
        return self.compression in _OF_BYTES or self.compression in _OF_PICTURES

    @property
    def end(self) -> int:
        """Offset at which the last strip or tile ends."""
        return max((start + length for start, length in zip(self.offsets, self.lengths, strict=False)), default=0)

    @property
    def is_ours(self) -> bool:
        """True if `DeepTiff` can read it."""
        of_float = self.sample_format == _FLOAT
        return (
            self.compression in _OF_BYTES
            and self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, _RGB, CMYK)
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
        """Return whether the number and size of strips or tiles are plausible, and not an attack."""
        each = self.block[0] * self.block[1] * (1 if self.planar else self.samples) * self.bits // 8
        count = -(-self.width // self.block[0]) * -(-self.height // self.block[1])
        of_picture = self.width * self.height * self.samples * self.bits // 8
        return count <= _MOST_BLOCKS and each <= min(_LARGEST_BLOCK, max(4 * of_picture, _SMALL_BLOCK))

    @property
    def colours(self) -> tuple[int, ...] | None:
        """Positions of the samples for grey, or red, green and blue, or the four inks; None if unknown."""
        if self.photometric == CMYK:
            return (0, 1, 2, 3) if self.samples >= 4 and self.sample_format != _FLOAT else None
        if self.photometric == _RGB:
            return (0, 1, 2) if self.samples >= 3 else None
        first = self.samples - sum(1 for kind in self.extra if kind in (1, 2))
        if first <= 2:
            return (0,)
        # Colour satellite pictures are often written as 3 or 4 grey samples.
        return (0, 1, 2) if first <= 4 else None

    @property
    def alpha(self) -> int | None:
        """Position of the alpha sample, if any."""
        start = self.samples - len(self.extra)
        return next((start + i for i, kind in enumerate(self.extra) if kind in (1, 2)), None)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the decompressed samples."""
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
    """Read the layout of a TIFF's first page; None if it is invalid, or `data` is not a TIFF."""
    if data[:4] not in _MAGIC:
        return None
    try:
        tags = _directory(data)
        return _layout(tags, "<" if data.startswith(b"II") else ">")
    except MemoryError:
        raise
    except Exception:  # Pillow raises nearly anything over a malformed directory; its own decoder will report it
        return None


def is_raw_photograph(data: bytes) -> str | None:
    """Return the name of a camera's raw format if the TIFF is one (its first page is a preview), else None."""
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
        # NEF, ARW, PEF and the like: a thumbnail comes first, and the sensor's data is in a sub-directory.
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
    if data.startswith(b"MM\0+"):  # Pillow does not recognise this as a BigTIFF
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
