"""TIFFs and BMPs of every kind, written by other hands: the same pixels, or a refusal that names the kind.

    python tests/proofs/picture_grid.py [--every N]

TIFFs are written by tifffile with imagecodecs, or here, and read by tifffile; BMPs are written here, and read by
OpenCV and Pillow. What a deep sample becomes is worked out here once more, from docs/preprocessing.md. Ends with
status 1 if a picture has other pixels, or is refused though it should not be.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

from clipdex.base.errors import ImageError
from clipdex.model.images import open_image

HEIGHT, WIDTH = 37, 45
WHITE = 255


@dataclass
class Case:
    """One file. expected: uint8 (H, W, 3), or None where others are asked. off: how far a sample may be off."""

    name: str
    data: bytes
    expected: np.ndarray
    off: int = 0
    may_be_refused: bool = False


def gradient(samples: int, seed: int = 0) -> np.ndarray:
    """Shares of white, float64 (H, W, samples): from black to white, with noise."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1)
    picture = np.clip(ramp + rng.normal(0, 0.1, (HEIGHT, WIDTH, samples)), 0, 1)
    picture[0, :2], picture[-1, -2:] = 0, 1
    return picture


# TIFF

COMPRESSIONS = (None, "lzw", "deflate", "adobe_deflate", "packbits", "zstd", "lzma")
DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8")
# photometric, samples, what the last of them are
KINDS = {
    "grey": ("minisblack", 1, ()),
    "white is zero": ("miniswhite", 1, ()),
    "grey, alpha": ("minisblack", 2, ("unassalpha",)),
    "grey, extra": ("minisblack", 2, ("unspecified",)),
    "3 greys": ("minisblack", 3, ("unspecified",) * 2),
    "4 greys": ("minisblack", 4, ("unspecified",) * 3),
    "RGB": ("rgb", 3, ()),
    "RGB, alpha": ("rgb", 4, ("unassalpha",)),
    "RGB, premultiplied": ("rgb", 4, ("assocalpha",)),
    "RGB, extra": ("rgb", 4, ("unspecified",)),
    "RGB, alpha, extra": ("rgb", 5, ("unassalpha", "unspecified")),
    "CMYK": ("separated", 4, ()),
}


def values_of(shares: np.ndarray, dtype: str, used: float) -> np.ndarray:
    """Samples of a dtype, of whose whole range a share is used."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (shares * used).astype(kind)
    return np.rint(shares * used * float(np.iinfo(kind).max)).astype(kind)


def eight_bits(values: np.ndarray, white: float) -> np.ndarray:
    return np.clip(np.rint(np.maximum(values.astype(np.float64), 0) * 255 / white), 0, 255).astype(np.uint8)


def tiff_expected(values: np.ndarray, photometric: str, extra: tuple[str, ...]) -> tuple[np.ndarray, int]:
    """(RGB, how far off) that clipdex should make of samples (H, W, N)."""
    kind, bits = values.dtype, values.dtype.itemsize * 8
    count = {"rgb": 3, "separated": 4}.get(photometric, 3 if values.shape[2] >= 3 and len(extra) >= 2 else 1)
    colours = values[..., :count]
    top = float(np.maximum(colours.astype(np.float64), 0).max())
    if kind.kind == "f" and top <= 1:
        full = 1.0
    elif top <= 255:
        full = 255.0
    elif kind.kind != "f" and bits <= 16:
        full = float(np.iinfo(kind).max)
    else:
        full = max(top, 65535.0)
    ordered = np.sort(np.maximum(colours.astype(np.float64), 0).ravel())
    used = max(ordered[int(np.ceil(0.999 * ordered.size)) - 1], top / 8)
    white, off = (used, 2) if 0 < used < full / 4 and photometric != "separated" and bits > 8 else (full, 0)
    if photometric == "separated":
        white = float(np.iinfo(kind).max) if kind.kind == "u" and bits <= 16 else 2.0**bits - 1
    if bits == 8:
        white = 255.0
    if kind == np.uint16 and count > 1 and white == 65535 and photometric != "separated":
        eight = (colours >> 8).astype(np.uint8)
    else:
        eight = eight_bits(colours, white)
    if photometric == "separated":
        return np.asarray(Image.fromarray(eight, "CMYK").convert("RGB")), 1
    if photometric == "miniswhite":
        eight = np.subtract(255, eight, dtype=np.uint8)
    if count == 1:
        eight = np.repeat(eight, 3, axis=2)
    if not extra or extra[0] == "unspecified":
        return eight, off
    alpha_values = np.maximum(values[..., count].astype(np.float64), 0)
    alpha_top = alpha_values.max()
    alpha_full = {"f": 1.0, "u": 2.0**bits - 1, "i": 2.0 ** (bits - 1) - 1}[kind.kind]
    if bits == 8:
        alpha_full = 255.0
    if bits > 16 and kind.kind != "f":
        alpha_full = max(alpha_top, 65535)
    alpha = np.clip(alpha_values / (alpha_full if white == full else alpha_top), 0, 1)[..., None]
    plain = eight.astype(np.float64)
    if extra[0] == "assocalpha":
        plain = np.minimum(255, np.divide(plain, alpha, out=np.zeros_like(plain), where=alpha > 0.5 / 255))
    laid = plain * alpha + WHITE * (1 - alpha)
    return np.rint(laid).astype(np.uint8), max(off, 3 if extra[0] == "assocalpha" else 2)


def tiff(values: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


def tiffs(every: int) -> Iterator[Case]:
    yield from deep_tiffs(every)
    yield from few_bits()
    yield from palettes()
    yield from pictures_in_tiffs()
    yield from refused_tiffs()


def deep_tiffs(every: int) -> Iterator[Case]:
    turn = itertools.count()
    layouts = itertools.product(KINDS.items(), DTYPES, (1.0, 0.05), ("<", ">"), (False, True), (None, (16, 32)))
    for (kind, (photometric, samples, extra)), dtype, used, order, planar, tile in layouts:
        narrow = used < 1
        if narrow and (dtype in ("u1", "i1") or kind in ("CMYK", "RGB, premultiplied")):
            continue  # a small part of 8 bits, and of ink, is what it is
        shares = gradient(samples)
        if extra[:1] == ("assocalpha",):
            shares[..., :3] *= shares[..., 3:4]
        if samples == 1 and planar:
            continue
        values = values_of(shares, dtype, used)
        expected, off = tiff_expected(values, photometric, extra)
        for compression, predictor, big in itertools.product(COMPRESSIONS, (False, True), (False, True)):
            if predictor and compression in (None, "packbits"):
                continue
            if big and (compression, predictor) not in ((None, False), ("lzw", True)):
                continue  # the header has nothing to do with the method
            if next(turn) % every:
                continue
            options: dict[str, Any] = {
                "byteorder": order,
                "photometric": photometric,
                "compression": compression,
                "bigtiff": big,
                "rowsperstrip": None if tile else 8,
                "tile": tile,
            }
            if predictor:
                options["predictor"] = True
            array = values
            if samples > 1:
                options["planarconfig"] = "separate" if planar else "contig"
                options["extrasamples"] = extra or None
                array = np.moveaxis(values, 2, 0) if planar else values
            else:
                array = values[..., 0]
            try:
                data = tiff(np.ascontiguousarray(array), **options)
            except (ValueError, NotImplementedError, KeyError):
                continue  # tifffile has no such kind
            read = tifffile.imread(io.BytesIO(data))
            assert np.array_equal(read, array), (kind, dtype, options)
            what = (
                f"{kind} {dtype} used {used} {order} planar {planar} tile {tile} {compression} {predictor} {big}"
            )
            yield Case(f"tiff {what}", data, expected, off, may_be_refused=kind == "CMYK" and dtype[0] == "f")


def packed_tiff(order: str, bits: int, photometric: int, values: np.ndarray, rows: int, **tags: Any) -> bytes:
    """A TIFF of one sample of a few bits, uncompressed; tifffile reads such files, and cannot write them all."""
    single = (values[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8).reshape(HEIGHT, -1)
    lines = np.packbits(single, axis=1)
    fill_order = tags.pop("fill_order", 1)
    if fill_order == 2:
        lines = np.packbits(np.unpackbits(lines, axis=1, bitorder="little"), axis=1)
    strips = [lines[top : top + rows].tobytes() for top in range(0, HEIGHT, rows)]
    palette = tags.pop("palette", None)
    long = np.dtype(f"{order}u4")
    entries = [(256, [WIDTH], "I"), (257, [HEIGHT], "I"), (258, [bits], "H"), (259, [1], "H")]
    entries += [
        (262, [photometric], "H"),
        (266, [fill_order], "H"),
        (273, [], "I"),  # where the strips are, known below
        (277, [1], "H"),
        (278, [rows], "I"),
    ]
    entries.append((279, [len(strip) for strip in strips], "I"))
    if palette is not None:
        entries.append((320, palette.ravel().tolist(), "H"))
    body, at = b"", 8
    offsets = []
    for strip in strips:
        offsets.append(at + len(body))
        body += strip + bytes(len(strip) % 2)
    directory = struct.pack(order + "H", len(entries))
    for tag, numbers, kind in entries:
        numbers = numbers or offsets
        raw = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(raw) > 4:
            where, body = at + len(body), body + raw + bytes(len(raw) % 2)
            raw = np.array([where], long).tobytes()
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + raw.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at + len(body))
    return head + body + directory + bytes(4)


def few_bits() -> Iterator[Case]:
    for bits, order, photometric, rows, fill_order in itertools.product(
        (*range(1, 8), *range(9, 16)), "<>", (0, 1), (8, 37), (1, 2)
    ):
        values = np.rint(gradient(1)[..., 0] * (2**bits - 1)).astype(np.uint16)
        eight = eight_bits(values, 2**bits - 1)
        eight = eight if photometric else 255 - eight
        data = packed_tiff(order, bits, photometric, values, rows, fill_order=fill_order)
        assert np.array_equal(tifffile.imread(io.BytesIO(data)), values), (bits, order)
        expected = np.repeat(eight[..., None], 3, axis=2)
        yield Case(
            f"tiff {bits} bits {order} photometric {photometric} rows {rows} fill {fill_order}", data, expected
        )


def palettes() -> Iterator[Case]:
    rng = np.random.default_rng(1)
    for bits, order, rows, of_eight in itertools.product((1, 2, 4, 8), "<>", (8, 37), (False, True)):
        colours = rng.integers(0, 256, (3, 2**bits)).astype(np.uint16)
        values = rng.integers(0, 2**bits, (HEIGHT, WIDTH)).astype(np.uint16)
        data = packed_tiff(order, bits, 3, values, rows, palette=colours if of_eight else colours * 257)
        assert np.array_equal(tifffile.imread(io.BytesIO(data)), values)
        expected = np.moveaxis(colours[:, values], 0, 2).astype(np.uint8)
        yield Case(f"tiff palette {bits} bits {order} rows {rows} colours of 8 bits {of_eight}", data, expected)


def pictures_in_tiffs() -> Iterator[Case]:
    """JPEG and fax within TIFF; what tifffile reads is right."""
    for kind, planar, tile, order in itertools.product(
        ("grey", "RGB", "RGB, as is"), (0, 1), (None, (16, 32)), "<>"
    ):
        if kind == "grey" and planar:
            continue
        values = np.rint(gradient(1 if kind == "grey" else 3) * 255).astype(np.uint8)
        values = cv2.GaussianBlur(values, (0, 0), 3)  # JPEG is for what is smooth
        options: dict[str, Any] = {
            "photometric": "minisblack" if kind == "grey" else "rgb",
            "compression": "jpeg",
            "tile": tile,
        }
        array = values
        if kind != "grey":
            options["planarconfig"] = "separate" if planar else "contig"
            array = np.moveaxis(values, 2, 0) if planar else values
        if kind == "RGB, as is":
            options["compressionargs"] = {"outcolorspace": "rgb"}
        else:
            options["compressionargs"] = {"level": 95}
        try:
            data = tiff(np.ascontiguousarray(array), byteorder=order, rowsperstrip=None if tile else 16, **options)
            read = tifffile.imread(io.BytesIO(data))
        except Exception:
            continue
        read = np.moveaxis(read, 0, 2) if planar else read
        expected = read if read.ndim == 3 else np.repeat(read[..., None], 3, axis=2)
        yield Case(f"tiff jpeg {kind} planar {planar} tile {tile} {order}", data, expected, 2)
    bits = gradient(1)[..., 0] > 0.5
    for compression in ("tiff_ccitt", "group3", "group4", "packbits", "tiff_lzw"):
        buffer = io.BytesIO()
        Image.fromarray(bits).save(buffer, "TIFF", compression=compression)
        expected = np.repeat(bits[..., None], 3, axis=2).astype(np.uint8) * 255
        read = cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_COLOR)
        assert np.array_equal(read, expected)
        yield Case(f"tiff {compression}", buffer.getvalue(), expected)


def refused_tiffs() -> Iterator[Case]:
    nothing = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    shares = gradient(1)[..., 0]
    strange = {
        "complex": tiff(shares.astype(np.complex64)),
        "13 bands": tiff(
            np.rint(gradient(13) * 65535).astype(np.uint16), photometric="minisblack", planarconfig="contig"
        ),
        "12-bit JPEG": (np.rint(shares * 4095).astype(np.uint16), {"compression": "jpeg"}),
        "JPEG XL": (np.rint(shares * 255).astype(np.uint8), {"compression": "jpegxl"}),
        "JPEG 2000": (np.rint(shares * 255).astype(np.uint8), {"compression": "jpeg2000"}),
        "LERC": (shares.astype(np.float32), {"compression": "lerc"}),
        "WebP": (np.rint(gradient(3) * 255).astype(np.uint8), {"compression": "webp", "photometric": "rgb"}),
        "16-bit palette": None,
        "deep L*a*b*": (np.rint(gradient(3) * 65535).astype(np.uint16), {"photometric": "cielab"}),
        "deep YCbCr": (np.rint(gradient(3) * 65535).astype(np.uint16), {"photometric": "ycbcr"}),
        "sensor": (np.rint(shares * 4095).astype(np.uint16), {"photometric": "cfa"}),
    }
    for name, made in strange.items():
        if made is None:
            continue
        try:
            data = made if isinstance(made, bytes) else tiff(made[0], **made[1])
        except Exception:
            continue
        yield Case(f"tiff refused {name}", data, nothing, may_be_refused=True)


# BMP

HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


def bmp(
    header: int,
    bits: int,
    rows: bytes,
    *,
    compression: int = 0,
    palette: np.ndarray | None = None,
    masks: tuple[int, ...] = (),
    down: bool = False,
    used: int = 0,
) -> bytes:
    """A BMP around rows that are padded already. palette: RGB (N, 3)."""
    height = -HEIGHT if down else HEIGHT
    if header == 12:
        info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, len(rows), 2835, 2835, used, 0)
        info = struct.pack("<I", header) + info[4:]
        if header >= 52:
            info += struct.pack("<4I", *(*masks, 0, 0, 0, 0)[:4])
        info = info.ljust(header, b"\0")[:header]
    if header == 40 and masks:
        info += struct.pack(f"<{len(masks)}I", *masks)
    table = b""
    if palette is not None:
        table = b"".join(bytes((b, g, r)) + (b"" if header == 12 else b"\0") for r, g, b in palette.tolist())
    at = 14 + len(info) + len(table)
    return b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + info + table + rows


def padded(rows: np.ndarray, down: bool) -> bytes:
    """uint8 (H, bytes of a row) -> the rows, upside down, each filled up to four bytes."""
    filled = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    return (filled if down else filled[::-1]).tobytes()


def bmps() -> Iterator[Case]:
    rng = np.random.default_rng(2)
    for header, down in itertools.product(HEADERS, (False, True)):
        if down and header in (12, 16, 64):
            continue
        for bits, count in ((1, 2), (2, 4), (4, 16), (4, 5), (8, 256), (8, 2), (8, 16), (8, 200)):
            for grey in (False, True):
                if header == 12 and count != 1 << bits:
                    continue  # it has no field for it
                if header == 16 and count != 1 << bits:
                    continue
                palette = rng.integers(0, 256, (count, 3)).astype(np.uint8)
                if grey:
                    palette = np.repeat(np.linspace(0, 255 if count == 2 else count - 1, count)[:, None], 3, 1)
                    palette = np.rint(palette).astype(np.uint8)
                values = rng.integers(0, count, (HEIGHT, WIDTH)).astype(np.uint8)
                single = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(HEIGHT, -1)
                rows = padded(np.packbits(single, axis=1), down)
                data = bmp(header, bits, rows, palette=palette, down=down, used=count % (1 << bits))
                yield Case(
                    f"bmp {header} {bits} bits {count} colours grey {grey} down {down}", data, palette[values]
                )
        yield from true_colour(header, down)
        if header in (40, 52, 56, 108, 124) and not down:
            yield from run_lengths(header)
    yield from refused_bmps()


def true_colour(header: int, down: bool) -> Iterator[Case]:
    rgb = np.rint(gradient(3) * 255).astype(np.uint8)
    rows = padded(rgb[..., ::-1].reshape(HEIGHT, -1), down)
    yield Case(f"bmp {header} 24 bits down {down}", bmp(header, 24, rows, down=down), rgb)
    layouts = {
        16: [None, (0x7C00, 0x3E0, 0x1F), (0xF800, 0x7E0, 0x1F), (0xF00, 0xF0, 0xF), (0x1F, 0x7E0, 0xF800)],
        32: [
            None,
            (0xFF0000, 0xFF00, 0xFF),
            (0xFF, 0xFF00, 0xFF0000),
            (0xFF000000, 0xFF0000, 0xFF00),
            (0x3FF00000, 0xFFC00, 0x3FF),
        ],
    }
    alphas = {16: (0, 0x8000, 0xF000), 32: (0, 0xFF000000, 0xFF)}
    for bits, kinds in layouts.items():
        for masks, alpha, shown in itertools.product(kinds, alphas[bits], ("zero", "whole", "some")):
            taken = 0 if masks is None else masks[0] | masks[1] | masks[2]
            if (masks is None or header < 56) and alpha and header != 40:
                continue
            if masks is not None and (header < 40 or header == 64 or alpha & taken):
                continue
            if masks is None and alpha:
                continue
            if not alpha and shown != "zero":
                continue
            yield masked(header, down, rgb, bits, masks, alpha, shown)


def masked(header, down, rgb, bits, masks, alpha, shown) -> Case:
    numbers = np.zeros((HEIGHT, WIDTH), dtype=np.uint64)
    expected = np.zeros((HEIGHT, WIDTH, 3), dtype=np.float64)
    fields = masks or {16: (0x7C00, 0x3E0, 0x1F), 32: (0xFF0000, 0xFF00, 0xFF)}[bits]
    for channel, mask in enumerate(fields):
        shift = (mask & -mask).bit_length() - 1
        most = mask >> shift
        value = rgb[..., channel].astype(np.uint64) * most // 255
        numbers |= value << np.uint64(shift)
        expected[..., channel] = value * 255 // most
    if alpha:
        shift = (alpha & -alpha).bit_length() - 1
        most = alpha >> shift
        share = {
            "zero": np.zeros((HEIGHT, WIDTH)),
            "whole": np.ones((HEIGHT, WIDTH)),
            "some": gradient(1, 5)[..., 0],
        }
        value = np.rint(share[shown] * most).astype(np.uint64)
        numbers |= value << np.uint64(shift)
        if value.any():
            opacity = ((value * 255 // most) / 255)[..., None]
            expected = expected * opacity + WHITE * (1 - opacity)
    rows = padded(numbers.astype(f"<u{bits // 8}").view(np.uint8).reshape(HEIGHT, -1), down)
    said = () if masks is None else (*masks, alpha) if header != 40 or alpha else masks
    compression = 0 if masks is None else 6 if header == 40 and alpha else 3
    data = bmp(header, bits, rows, compression=compression, masks=said, down=down)
    name = f"bmp {header} {bits} bits masks {said} alpha {shown} down {down}"
    return Case(name, data, np.rint(expected).astype(np.uint8), 1 if shown == "some" else 0)


def run_lengths(header: int) -> Iterator[Case]:
    rng = np.random.default_rng(3)
    for nibbles, absolute, skips in itertools.product((False, True), (False, True), (False, True)):
        count = 16 if nibbles else 256
        palette = rng.integers(0, 256, (count, 3)).astype(np.uint8)
        values = np.repeat(rng.integers(0, count, (HEIGHT, WIDTH // 3 + 1)), 3, axis=1)[:, :WIDTH].astype(np.uint8)
        code = bytearray()
        y = HEIGHT - 1
        while y >= 0:
            if skips and y == HEIGHT // 2:  # two rows and five pixels are left out
                values[y - 1 : y + 1] = 0
                values[y - 2, :5] = 0
                code += bytes((0, 2, 5, 2))
                y -= 2
            x = 5 if skips and y == HEIGHT // 2 - 2 else 0
            while x < WIDTH:
                if absolute and WIDTH - x >= 9 and x % 2:
                    run = values[y, x : x + 9].tolist()
                    packed = run
                    if nibbles:
                        packed = [a << 4 | b for a, b in itertools.zip_longest(run[::2], run[1::2], fillvalue=0)]
                    code += bytes((0, 9, *packed)) + bytes(len(packed) % 2)
                    x += 9
                else:
                    same = next((i for i in range(x, WIDTH) if values[y, i] != values[y, x]), WIDTH) - x
                    value = int(values[y, x])
                    code += bytes((same, value << 4 | value if nibbles else value))
                    x += same
            code += bytes((0, 0))
            y -= 1
        code += bytes((0, 1))
        data = bmp(header, 4 if nibbles else 8, bytes(code), compression=2 if nibbles else 1, palette=palette)
        yield Case(
            f"bmp {header} RLE{4 if nibbles else 8} absolute {absolute} skips {skips}", data, palette[values]
        )


def refused_bmps() -> Iterator[Case]:
    nothing = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    yield Case("bmp refused PNG", bmp(40, 24, bytes(60), compression=5), nothing, may_be_refused=True)
    yield Case("bmp refused JPEG", bmp(40, 24, bytes(60), compression=4), nothing, may_be_refused=True)
    yield Case("bmp refused Huffman", bmp(64, 1, bytes(60), compression=3), nothing, may_be_refused=True)
    yield Case("bmp refused RLE24", bmp(64, 24, bytes(60), compression=4), nothing, may_be_refused=True)
    yield Case("bmp refused 48 bits", bmp(40, 48, bytes(6000)), nothing, may_be_refused=True)


def others_read(data: bytes) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What OpenCV and Pillow make of a BMP: RGB over white, or None."""
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    by_opencv = None if seen is None else seen[..., ::-1]
    try:
        with Image.open(io.BytesIO(data)) as image:
            by_pillow = np.asarray(image.convert("RGB")) if image.mode != "RGBA" else None
    except Exception:
        by_pillow = None
    return by_opencv, by_pillow


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="Take but each N-th of the deep TIFFs.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    counts, wrong = Counter[str](), []
    for case in itertools.chain(tiffs(options.every), bmps()):
        kind = case.name.partition(" ")[0]
        counts[kind] += 1
        try:
            ours = np.asarray(open_image(case.data))
        except ImageError as exc:
            counts[f"{kind} {exc.reason}"] += 1
            if exc.reason != "unsupported" or not case.may_be_refused:
                wrong.append(f"{case.name}: {exc}")
            continue
        off = (
            np.abs(ours.astype(int) - case.expected.astype(int)).max()
            if ours.shape == case.expected.shape
            else 999
        )
        if off > case.off or " refused " in case.name:
            wrong.append(f"{case.name}: off by {off}")
        else:
            counts[f"{kind} right"] += 1
        if kind == "bmp":
            by_opencv, by_pillow = others_read(case.data)
            if by_opencv is not None and by_pillow is not None and np.array_equal(by_opencv, by_pillow):
                counts["bmp where OpenCV and Pillow agree"] += 1
                if not np.array_equal(ours, by_opencv):
                    counts["bmp where they agree on other pixels"] += 1
    if options.json:
        print(json.dumps({"counts": counts, "wrong": wrong}))
    else:
        print("\n".join(wrong[:40]), file=sys.stderr)
        print(f"{dict(counts)}; {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
