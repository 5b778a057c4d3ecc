"""BMPs of every header and depth: Pillow supports few bit masks, and uses alpha that was never written.

Pictures that Pillow reads correctly have the same pixels here: a 5-bit sample becomes `value * 255 // 31`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdex.base.errors import ImageError
from clipdex.model.formats.flatten import over, strips

__all__ = ["Bitmap", "is_bitmap"]

_CORE, _INFO = 12, 40
_RAW, _RLE8, _RLE4, _BITFIELDS, _ALPHA_BITFIELDS = 0, 1, 2, 3, 6
_METHODS = {4: "JPEG", 5: "PNG", 11: "CMYK", 12: "CMYK RLE8", 13: "CMYK RLE4"}
_OS2_METHODS = {3: "Huffman", 4: "RLE24"}
_DEPTHS = (1, 2, 4, 8, 16, 24, 32)

# Red, green, blue and alpha if the file does not say. The fourth byte of 32 bits is unused.
_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    upwards: bool
    bits: int
    compression: int
    colours: int
    palette_at: int
    entry: int
    pixels_at: int
    masks: tuple[int, int, int, int]


def is_bitmap(data: bytes) -> bool:
    """Return whether a file is a BMP, complete or not."""
    return data.startswith(b"BM")


class Bitmap:
    """A BMP with a valid header.

    size: (width, height).

    Construction raises ImageError if the header is truncated or broken, or the kind is unsupported.
    """

    orientation: int = 1
    profile: bytes | None = None
    size: tuple[int, int]

    def __init__(self, data: bytes, where: str) -> None:
        self._data, self._where = data, where
        try:
            self._header = self._read()
        except struct.error as exc:
            raise self._early() from exc
        self.size = self._header.width, self._header.height

    def to_rgb(self, fill: tuple[int, int, int]) -> Image.Image:
        """Decode -> an RGB image."""
        header = self._header
        indices = self._run_lengths() if header.compression in (_RLE8, _RLE4) else None
        if indices is None:
            self._require_pixels()
        with_alpha = indices is None and header.masks[3] and self._has_alpha()
        image = Image.new("RGB", self.size)
        for box in strips(self.size):
            _, top, right, bottom = box
            if header.bits <= 8:
                which = self._indices(top, bottom) if indices is None else indices[top:bottom]
                strip = Image.fromarray(self._palette()[which])
            elif header.bits == 24:
                strip = Image.fromarray(
                    np.ascontiguousarray(self._rows(top, bottom).reshape(-1, right, 3)[..., ::-1])
                )
            else:
                strip = self._masked(top, bottom, with_alpha)
                strip = over(strip, fill) if with_alpha else strip
            image.paste(strip, box)
        return image

    def _early(self) -> ImageError:
        return ImageError(f"{self._where}: the file is truncated: an incomplete BMP", reason="truncated")

    def _broken(self, why: str) -> ImageError:
        return ImageError(f"{self._where}: cannot be decoded: {why}", reason="broken")

    def _unsupported(self, what: str) -> ImageError:
        return ImageError(f"{self._where}: {what}, which clipdex does not read: convert it", reason="unsupported")

    def _read(self) -> _Header:
        data = self._data
        pixels_at, size = struct.unpack_from("<II", data, 10)
        compression = colours = 0
        if size == _CORE:
            width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        elif 16 <= size <= 64 or size in (108, 124):
            width, height, _, bits = struct.unpack_from("<iiHH", data, 18)
            fields = struct.unpack("<IIiiI", data[30 : min(14 + size, 50)].ljust(20, b"\0"))
            if len(data) < 14 + size:
                raise self._early()
            compression, colours = fields[0], fields[4]
        else:
            raise self._broken(f"no BMP has a header of {size:,} bytes")
        if width < 0 or height == -(2**31):
            raise self._broken(f"it claims {width} × {height} pixels")
        os2 = size in (_CORE, 64) or size < _INFO
        if bits not in _DEPTHS:
            raise self._unsupported(f"a BMP of {bits} bits")
        self._require_method(compression, bits, os2)
        masks_size = {_BITFIELDS: 12, _ALPHA_BITFIELDS: 16}.get(compression, 0) if size == _INFO else 0
        palette_at = 14 + size + masks_size
        entry = 3 if size == _CORE else 4
        if bits <= 8:
            colours = colours or 1 << bits
            room = (pixels_at - palette_at) // entry  # the pixels may begin before a full palette would end
            colours = min(colours, 1 << bits, room if pixels_at >= palette_at else 1 << bits)
        else:
            colours = 0
        return _Header(
            width,
            abs(height),
            height >= 0,
            bits,
            compression,
            colours,
            palette_at,
            entry,
            pixels_at or palette_at + colours * entry,
            self._masks(size, bits, compression),
        )

    def _require_method(self, compression: int, bits: int, os2: bool) -> None:
        if os2 and compression in _OS2_METHODS:
            raise self._unsupported(f"a BMP of OS/2 compressed with {_OS2_METHODS[compression]}")
        if compression in _METHODS:
            raise self._unsupported(f"a BMP that holds {_METHODS[compression]}")
        fits = {_RAW: _DEPTHS, _RLE8: (8,), _RLE4: (4,), _BITFIELDS: (16, 24, 32), _ALPHA_BITFIELDS: (16, 24, 32)}
        if bits not in fits.get(compression, ()):
            raise self._broken(f"no BMP of {bits} bits has the compression {compression}")

    def _masks(self, size: int, bits: int, compression: int) -> tuple[int, int, int, int]:
        default = _MASKS.get(bits, (0, 0, 0, 0))
        if compression not in (_BITFIELDS, _ALPHA_BITFIELDS) or bits not in _MASKS:
            return default
        has_alpha = size >= 56 or compression == _ALPHA_BITFIELDS
        masks = struct.unpack_from("<4I" if has_alpha else "<3I", self._data, 54)
        red, green, blue, alpha = (*masks, 0)[:4]
        if not red | green | blue:
            return (*default[:3], alpha or (0xFF000000 if bits == 32 else 0))
        for mask in (red, green, blue, alpha):
            run = mask >> _shift(mask)
            if mask >> bits or run & (run + 1):
                raise self._broken(f"the bit mask {mask:#x} is invalid for {bits} bits")
        return red, green, blue, alpha

    def _palette(self) -> Bytes:
        """Return the RGB of each index: uint8 (256, 3); black for those that the file lacks."""
        header = self._header
        raw = self._data[header.palette_at : header.palette_at + header.colours * header.entry]
        entries = np.frombuffer(raw, dtype=np.uint8)[: len(raw) // header.entry * header.entry]
        palette = np.zeros((256, 3), dtype=np.uint8)
        colours = entries.reshape(-1, header.entry)[:, 2::-1]
        palette[: len(colours)] = colours
        return palette

    @property
    def _stride(self) -> int:
        return (self._header.width * self._header.bits + 31) // 32 * 4

    def _require_pixels(self) -> None:
        header = self._header
        last = (header.width * header.bits + 7) // 8  # some files omit the padding of the last row
        if len(self._data) < header.pixels_at + self._stride * (header.height - 1) + last:
            raise self._early()

    def _rows(self, top: int, bottom: int) -> Bytes:
        """Return the bytes of some rows, counted from the top of the picture, without padding."""
        header = self._header
        first, last = (header.height - bottom, header.height - top) if header.upwards else (top, bottom)
        stride, used = self._stride, (header.width * header.bits + 7) // 8
        start = header.pixels_at + first * stride
        raw = memoryview(self._data)[start : start + (last - first) * stride]
        missing = (last - first) * stride - len(raw)
        rows = np.frombuffer(bytes(raw) + bytes(missing) if missing else raw, dtype=np.uint8)
        rows = rows.reshape(last - first, stride)[:, :used]
        return rows[::-1] if header.upwards else rows

    def _indices(self, top: int, bottom: int) -> Bytes:
        header, rows = self._header, self._rows(top, bottom)
        if header.bits == 8:
            return rows
        single = np.unpackbits(rows, axis=1).reshape(len(rows), -1, header.bits)[:, : header.width]
        values = np.zeros(single.shape[:2], dtype=np.uint8)
        for place in range(header.bits):
            values = (values << 1 | single[..., place]).astype(np.uint8)
        return values

    def _numbers(self, top: int, bottom: int) -> npt.NDArray[Any]:
        return np.ascontiguousarray(self._rows(top, bottom)).view(f"<u{self._header.bits // 8}")

    def _has_alpha(self) -> bool:
        """Return whether any alpha is not 0: many programs leave all of it 0 in opaque pictures."""
        mask = self._header.masks[3]
        return any((self._numbers(top, bottom) & mask).any() for _, top, _, bottom in strips(self.size))

    def _masked(self, top: int, bottom: int, with_alpha: Any) -> Image.Image:
        numbers = self._numbers(top, bottom)
        bands = []
        for mask in self._header.masks[: 4 if with_alpha else 3]:
            value = (numbers & mask) >> _shift(mask)
            most = mask >> _shift(mask)
            wide = value.astype(np.uint64) * 255 // max(1, most)
            bands.append(wide.astype(np.uint8))
        return Image.fromarray(np.stack(bands, axis=-1), "RGBA" if with_alpha else "RGB")

    def _run_lengths(self) -> Bytes:
        """Decompress the indices of an RLE picture: uint8 (H, W); index 0 where the file skips pixels."""
        header, data = self._header, self._data
        rows = np.zeros((header.height, header.width), dtype=np.uint8)
        at, x, y = header.pixels_at, 0, 0
        while y < header.height:
            if at + 2 > len(data):
                raise self._early()
            count, value = data[at], data[at + 1]
            at += 2
            if count == 0 and value == 0:
                x, y = 0, y + 1
            elif count == 0 and value == 1:
                break
            elif count == 0 and value == 2:
                if at + 2 > len(data):
                    raise self._early()
                x, y, at = x + data[at], y + data[at + 1], at + 2
            else:
                count, run, at = self._run(at, count, value)
                if x < header.width:
                    rows[y, x : x + count] = run[: header.width - x]
                x += count
        return rows[::-1] if header.upwards else rows

    def _run(self, at: int, count: int, value: int) -> tuple[int, Bytes, int]:
        """Read a run -> (pixels, their indices, the next code's position). count 0: `value` literal pixels."""
        nibbles = self._header.compression == _RLE4
        if count:
            pair = (value >> 4, value & 15) if nibbles else (value, value)
            return count, np.resize(np.array(pair, dtype=np.uint8), count), at
        used = (value + 1) // 2 if nibbles else value
        raw = np.frombuffer(self._data[at : at + used], dtype=np.uint8)
        if len(raw) < used:
            raise self._early()
        run = np.stack([raw >> 4, raw & 15], axis=1).ravel()[:value] if nibbles else raw
        return value, run, at + used + used % 2


def _shift(mask: int) -> int:
    """Return the shift that moves a mask's lowest bit to bit 0."""
    return (mask & -mask).bit_length() - 1 if mask else 0
