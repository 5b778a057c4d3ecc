"""Pictures with many corners, and their local features put into an index without its files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from clipdex.collection.item import content_hash
from clipdex.index.side.feature_file import FeatureFile
from clipdex.looks.local_features import Recipe, extract
from clipdex.model.images import open_image

__all__ = ["give_features", "scene", "scene_png"]


SIFT = Recipe()


def scene(n: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture with many corners, RGB; another one for each n."""
    rng = np.random.default_rng([5, n])
    image = Image.fromarray(rng.integers(90, 140, (*size[::-1], 3), dtype=np.uint8)).resize(size)
    pen = ImageDraw.Draw(image)
    for _ in range(160):
        x, y, r = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(3, 12)
        fill = tuple(int(c) for c in rng.integers(0, 256, 3))
        (pen.ellipse if rng.random() < 0.5 else pen.rectangle)((x - r, y - r * 0.7, x + r, y + r * 0.7), fill=fill)
    return image


def scene_png(n: int, box: tuple[int, int, int, int] | None = None) -> bytes:
    """The bytes of a scene's file, or of a part of it."""
    data = io.BytesIO()
    (scene(n) if box is None else scene(n).crop(box)).save(data, "PNG", compress_level=1)
    return data.getvalue()


def give_features(directory: Path, *files: bytes, recipe: Recipe = SIFT) -> None:
    """Put the local features of picture files into an index, as `clipdex features build` does for files."""
    held = FeatureFile.open_or_make(directory, recipe)
    try:
        if held.recipe != recipe:
            held.empty(recipe)
        held.add(
            {
                content_hash(file): extract(open_image(file), kind=recipe.kind, most=recipe.most, side=recipe.side)
                for file in files
            }
        )
    finally:
        held.close()
