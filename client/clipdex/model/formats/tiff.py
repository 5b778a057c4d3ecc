"""TIFFs that Pillow cannot read or reads wrongly: deep samples, separate planes, grey samples that are colours.

This module handles only the layout of samples and their scale. Pillow's libtiff decompresses the strips and tiles,
each wrapped in a small TIFF of 8-bit greys, with one grey for each byte of a row.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from clipdex.base.errors import ImageError
from clipdex.model.formats.deep import SampleRange, full_scale, to_eight_bits
from clipdex.model.formats.flatten import over, strips
from clipdex.model.formats.tiff_layout import BLACK_IS_ZERO, CMYK, WHITE_IS_ZERO, Layout

__all__ = ["DeepTiff"]

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

Samples = npt.NDArray[Any]


class DeepTiff:
    """The first page of a TIFF for which `Layout.is_ours` holds."""

    def __init__(self, data: bytes, layout: Layout, where: str) -> None:
        self.size = layout.width, layout.height
        self.orientation = layout.orientation
        self.profile = layout.profile
        self._data, self._layout, self._where = data, layout, where

    def to_rgb(self, fill: tuple[int, int, int]) -> Image.Image:
        """Decode, without turning it upright -> an RGB image, or CMYK for inks."""
        layout = self._layout
        assert layout.colours is not None
        used, alpha_used = SampleRange(), SampleRange()
        inks = layout.photometric == CMYK
        if not inks:
            for _, part in self._parts():
                used.add(part[..., : len(layout.colours)])
                if layout.alpha is not None:
                    alpha_used.add(part[..., -1])
        full = full_scale(layout.dtype, layout.bits, used.top)
        white = used.white(full)
        # Alpha has its own range; if the colours use little of theirs, alpha does too.
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
            eight = (part >> 8).astype(np.uint8)  # the high byte, as Pillow does
        elif layout.dtype.kind == "u" and layout.bits < 8:
            eight = to_eight_bits(part, 2**layout.bits - 1)
        elif layout.photometric == CMYK:
            eight = to_eight_bits(part, 2 ** min(layout.bits, 32) - 1)
        elif layout.bits == 8:
            eight = to_eight_bits(part, 255)
        else:
            eight = to_eight_bits(part, white)
        if layout.photometric == WHITE_IS_ZERO:
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
        """Yield ((left, top), samples (rows, columns, colours and then alpha)) of the picture, in parts."""
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
        """Decompress a strip or tile -> bytes (rows, bytes of a row)."""
        layout = self._layout
        in_row = (layout.block[0] * layout.bits * (1 if layout.planar else layout.samples) + 7) // 8
        if i >= len(layout.offsets):
            raise ValueError("strips or tiles are missing")
        start = layout.offsets[i]
        length = layout.lengths[i] if i < len(layout.lengths) else rows * in_row
        if start + length > len(self._data):
            raise ImageError(f"{self._where}: the file is truncated: a strip or tile is cut", reason="truncated")
        packed = memoryview(self._data)[start : start + length]
        if layout.compression == 1:
            if length < rows * in_row:
                raise ValueError("a strip or tile is too short")
            plain = bytes(packed).translate(_REVERSED) if layout.fill_order == 2 else packed
            return np.frombuffer(plain, dtype=np.uint8, count=rows * in_row).reshape(rows, in_row)
        return _unpack(packed, layout, rows, in_row)

    def _samples(self, rows: npt.NDArray[np.uint8]) -> Samples:
        """Extract samples from rows of bytes -> (rows, block's width, samples)."""
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
    """Extract `count` numbers of `bits` bits from each row of bytes, high bit first: uint16 (rows, count)."""
    single = np.unpackbits(rows, axis=1, count=bits * count).reshape(len(rows), count, bits)
    values = np.zeros(single.shape[:2], dtype=np.uint16)
    for place in range(bits):
        values = (values << 1 | single[..., place]).astype(np.uint16)
    return values


def _unpack(packed: memoryview, layout: Layout, rows: int, in_row: int) -> npt.NDArray[np.uint8]:
    """Decompress a strip or tile with libtiff, as the only strip of a TIFF of 8-bit greys."""
    entries = [
        (256, in_row),
        (257, rows),
        (258, 8),
        (259, layout.compression),
        (262, BLACK_IS_ZERO),
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
        # Allocated here: Pillow would count these bytes as pixels, and reject them as too many.
        image.im = Image.new("L", (in_row, rows)).im
        image.load()
        return np.asarray(image)
