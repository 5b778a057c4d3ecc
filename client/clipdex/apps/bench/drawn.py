"""Pictures to measure with: drawn, but with a photograph's size, detail and number of bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["SIZE", "draw_photo", "draw_photos"]

SIZE = (640, 480)
_QUALITY = 85


def draw_photo(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """An RGB picture: soft light, some shapes, and grain, so that its JPEG has about 100 KB as a photograph's."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    image = small.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.integers(0, size[0]), rng.integers(0, size[1])
        wide, tall = rng.integers(20, 160, 2)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.integers(2) else draw.rectangle
        shape((int(x), int(y), int(x + wide), int(y + tall)), fill=colour)
    grain = rng.normal(0.0, 9.0, (size[1], size[0], 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def draw_photos(folder: Path, count: int, *, first: int = 0) -> list[Path]:
    """`count` JPEGs of 640 × 480, no two alike, as folder/photo_N.jpg -> their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photo_{seed:06d}.jpg" for seed in range(first, first + count)]
    for seed, path in enumerate(paths, first):
        draw_photo(seed).save(path, quality=_QUALITY)
    return paths
