"""Draws small pictures quickly, in families of similar but different ones, and copies of them.

A family shares what similar pictures share: the place, the light, the layout of a page, the axes of a chart. Its
members differ in what is in them. The n-th picture of a seed is the same whoever draws it.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COPIES = ("resized", "recompressed", "cropped", "all three")
_SIZES = [(200, 150), (150, 200), (204, 136), (208, 117), (160, 160), (136, 204)]


def picture(seed: int, n: int, family_of: int = 4) -> Image.Image:
    """The n-th picture, RGB. Of every 2 × family_of numbers, the first half is one family, the rest are alone."""
    place, member = divmod(n, 2 * family_of)
    common = place * 2 * family_of if member < family_of else n
    shared = np.random.default_rng([seed, 1, common])
    own = np.random.default_rng([seed, 2, n])
    size = _SIZES[shared.integers(len(_SIZES))]
    kind = shared.choice(5, p=[0.3, 0.2, 0.35, 0.075, 0.075])
    return (_landscape, _texture, _things, _page, _chart)[kind](shared, own, size)


def copy_of(image: Image.Image, kind: str, rng: np.random.Generator) -> Image.Image:
    """What becomes of a picture on its way through other people's programs."""
    if kind in ("cropped", "all three"):  # 5 % of the width and of the height, from wherever
        width, height = image.size
        w, h = round(width * 0.95), round(height * 0.95)
        left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        image = image.crop((left, top, left + w, top + h))
    if kind in ("resized", "all three"):
        scale = float(rng.choice([0.4, 0.5, 0.75, 1.5]))
        resample = Image.Resampling(int(rng.choice([1, 2, 3])))
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)
    if kind in ("recompressed", "all three"):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(30, 76)))
        image = Image.open(buffer).convert("RGB")
    return image


def _clouds(rng: np.random.Generator, size: tuple[int, int], roughness: float = 0.55) -> np.ndarray:
    """float32 (H, W), mean 0: rough at every scale, as photographs are."""
    total = np.zeros((size[1], size[0]), dtype=np.float32)
    weight = 1.0
    for cells in (3, 7, 16, 40):
        grid = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        total += weight * np.asarray(grid.resize(size, Image.Resampling.BILINEAR))
        weight *= roughness
    return total


def _colour(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(20, 235, 3).astype(np.float32)


def _mixed(weight: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """float (H, W) -> (H, W, 3) between two colours."""
    return low + np.clip(weight, 0, 1)[..., None] * (high - low)


def _finished(pixels: np.ndarray, rng: np.random.Generator) -> Image.Image:
    grain = rng.integers(-6, 7, pixels.shape[:2], dtype=np.int8)
    return Image.fromarray(np.clip(pixels + grain[..., None], 0, 255).astype(np.uint8))


def _landscape(shared: np.random.Generator, own: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A sky, a horizon and some ground; members of a family look at other hills and clouds in the same light."""
    width, height = size
    sky, low_sky, ground, far = (_colour(shared) for _ in range(4))
    horizon = shared.uniform(0.3, 0.75)
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    clouds = _clouds(own, size)
    pixels = _mixed(y / horizon + 0.25 * clouds, sky, low_sky)
    ridge = horizon + 0.08 * np.asarray(
        Image.fromarray(own.standard_normal((1, 7)).astype(np.float32)).resize(
            (width, 1), Image.Resampling.BICUBIC
        )
    )
    below = y > ridge
    pixels = np.where(
        below[..., None], _mixed((y - horizon) * 1.5 + 0.3 * _clouds(own, size), far, ground), pixels
    )
    return _finished(pixels, own)


def _texture(shared: np.random.Generator, own: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Something rough from near; members have half of the large forms in common."""
    low, high = _colour(shared), _colour(shared)
    share = 0.5 * _clouds(shared, size) + _clouds(own, size, shared.uniform(0.5, 0.9))
    return _finished(_mixed(0.5 + 0.3 * share, low, high), own)


def _things(shared: np.random.Generator, own: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Things in a room; in a family the room is the same, and a few things stay where they were."""
    low, high = _colour(shared), _colour(shared)
    angle = shared.uniform(0, 6.28)
    y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32)
    slope = 0.5 + np.cos(angle) * (x / size[0] - 0.5) + np.sin(angle) * (y / size[1] - 0.5)
    image = _finished(_mixed(slope + 0.12 * _clouds(shared, size), low, high), own)
    pen = ImageDraw.Draw(image)
    for _ in range(int(shared.integers(1, 4))):
        _thing(pen, shared, size)
    for _ in range(int(own.integers(3, 9))):
        _thing(pen, own, size)
    return image.filter(ImageFilter.GaussianBlur(0.6))


def _thing(pen: ImageDraw.ImageDraw, rng: np.random.Generator, size: tuple[int, int]) -> None:
    x, y = rng.uniform(0, 1, 2) * size
    r = rng.uniform(0.06, 0.28) * min(size)
    fill = tuple(int(c) for c in _colour(rng))
    shape = rng.integers(3)
    if shape == 0:
        pen.ellipse((x - r, y - r * 0.8, x + r, y + r * 0.8), fill=fill)
    elif shape == 1:
        pen.rectangle((x - r, y - r * 0.6, x + r, y + r * 0.6), fill=fill)
    else:
        corners = rng.uniform(-r, r, (int(rng.integers(3, 7)), 2)) + np.array([x, y])
        pen.polygon([tuple(c) for c in corners], fill=fill)


def _page(shared: np.random.Generator, own: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A printed page; members of a family have the same margins and columns, and another text."""
    width, height = size
    image = Image.new("RGB", size, tuple(int(c) for c in shared.integers(225, 256, 3)))
    pen = ImageDraw.Draw(image)
    columns, line, margin = int(shared.integers(1, 3)), int(shared.integers(4, 8)), int(shared.integers(8, 18))
    ink = tuple(int(c) for c in shared.integers(0, 70, 3))
    pen.rectangle((margin, margin, margin + width * shared.uniform(0.3, 0.6), margin + 2 * line), fill=ink)
    figure = own.uniform(0.2, 0.8) * height
    for column in range(columns):
        left = margin + column * (width - margin) // columns
        right = left + (width - margin) // columns - margin
        y = margin + 4 * line
        while y < height - margin:
            if own.random() < 0.08:
                y += 2 * line  # a paragraph ends
            if column == 0 and figure < y < figure + height * 0.25:
                y += line
                continue
            x: float = left
            end = right if own.random() < 0.8 else own.uniform(left, right)
            while x < end:
                word = own.uniform(4, 18)
                pen.rectangle((x, y, min(x + word, end), y + line * 0.45), fill=ink)
                x += word + 3
            y += line
    box = (margin, figure + line, (width - margin) // columns - margin, figure + height * 0.22)
    pen.rectangle(box, fill=tuple(int(c) for c in _colour(own)))
    return image


def _chart(shared: np.random.Generator, own: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Axes and a grid; members of a family show other figures in the same frame."""
    width, height = size
    image = Image.new("RGB", size, tuple(int(c) for c in shared.choice([30, 240, 255]) * np.ones(3, int)))
    pen = ImageDraw.Draw(image)
    left, bottom = width * 0.1, height * 0.88
    for k in range(6):
        pen.line(
            (left, bottom - k * height * 0.14, width * 0.96, bottom - k * height * 0.14), fill=(150, 150, 150)
        )
    if shared.random() < 0.5:
        bars = int(shared.integers(5, 14))
        colour = tuple(int(c) for c in _colour(shared))
        for k in range(bars):
            x = left + (k + 0.15) * (width * 0.86) / bars
            pen.rectangle(
                (x, bottom - own.uniform(0.03, 0.75) * height, x + width * 0.6 / bars, bottom), fill=colour
            )
        return image
    for _ in range(int(shared.integers(1, 4))):
        steps = np.cumsum(own.standard_normal(24))
        steps = (steps - steps.min()) / (np.ptp(steps) + 1e-6)
        points = [(left + k * width * 0.86 / 23, bottom - s * height * 0.72) for k, s in enumerate(steps)]
        colour = tuple(int(c) for c in _colour(own))
        pen.line(points, fill=colour, width=4)
        pen.polygon([(left, bottom), *points, (width * 0.96, bottom)], fill=colour)
    return image
