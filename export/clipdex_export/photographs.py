"""The pictures of the parity gate: photographs from scikit-image, in typical shapes and file formats.

For ready-made ONNX, which is adopted without scikit-image, drawn pictures of the same sizes take their place.

Each is a file's bytes, written by Pillow and read back by both sides. None has an EXIF rotation, 16-bit greys or
half-transparent pixels: for these clipdex has its own rules (docs/preprocessing.md), and Hugging Face none.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from clipdex.base.errors import MissingExtra
from clipdex_export.stand_ins import stand_in

__all__ = ["Picture", "gate_pictures", "photograph"]


@dataclass(frozen=True)
class Picture:
    """One picture file. `name` describes its content, shape and format."""

    name: str
    data: bytes


def photograph(name: str, purpose: str = "the parity gate") -> Image.Image:
    """Open a photograph in scikit-image's wheel by its file name, as RGB; nothing is downloaded."""
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("scikit-image", "export", purpose)
    with Image.open(Path(spec.submodule_search_locations[0]) / "data" / name) as image:
        return image.convert("RGB")


@cache
def gate_pictures(*, drawn: bool = False) -> tuple[Picture, ...]:
    """Make the pictures that every export is compared on; with the same Pillow, they are the same everywhere.

    drawn: in place of the photographs, pictures of the same sizes.
    """
    picture = stand_in if drawn else photograph
    astronaut = picture("astronaut.png")  # 512 × 512
    cat = picture("chelsea.png")  # 451 × 300
    coffee = picture("coffee.png")  # 600 × 400
    rocket = picture("rocket.jpg")  # 640 × 427
    galaxies = picture("hubble_deep_field.jpg")  # 1000 × 872
    retina = picture("retina.jpg")  # 1411 × 1411
    street = picture("motorcycle_left.png")
    page = picture("page.png")
    grass = picture("grass.png")
    return (
        _jpeg("a portrait, 512 × 512", astronaut),
        _jpeg("a cat, 451 × 300", cat),
        _jpeg("a cup of coffee, 600 × 400", coffee),
        _jpeg("a rocket, 640 × 427", rocket),
        _jpeg("galaxies, 1000 × 872", galaxies),
        _jpeg("a retina, 1411 × 1411", retina),
        _jpeg("motorcycles", street),
        _png("a printed page, PNG", page),
        _png("grass, PNG", grass),
        _jpeg("a cup of coffee on its side, 400 × 600", coffee.transpose(Image.Transpose.ROTATE_90)),
        _jpeg("a rocket, upright 201 × 427", rocket.crop((220, 0, 421, 427))),
        _jpeg("a panorama, 640 × 61", rocket.crop((0, 180, 640, 241))),
        _jpeg("a tower, 37 × 427", rocket.crop((300, 0, 337, 427))),
        _jpeg("galaxies blown up, 4000 × 3000", galaxies.resize((4000, 3000))),
        _jpeg("a cat, 223 × 225", cat.resize((223, 225))),
        _png("a cat, 224 × 224", cat.resize((224, 224))),
        _png("a cat, 336 × 337", cat.resize((336, 337))),
        _png("a thumbnail, 32 × 21", coffee.resize((32, 21))),
        _png("an icon, 7 × 5", astronaut.resize((7, 5))),
        _png("one pixel", Image.new("RGB", (1, 1), (200, 30, 90))),
        _png("black", Image.new("RGB", (300, 200), (0, 0, 0))),
        _png("white", Image.new("RGB", (200, 300), (255, 255, 255))),
        _png("noise, 321 × 123", _noise(321, 123)),
        _jpeg("a portrait at quality 20", astronaut, quality=20),
        _jpeg("a cat, progressive, colours in full", cat, progressive=True, subsampling=0),
        _jpeg("a grey cat", cat.convert("L")),
        _png("a portrait in 64 colours", astronaut.quantize(64)),
        _png("a page in black and white", page.convert("1")),
        _png("a rocket with an opaque alpha", rocket.convert("RGBA")),
        _png("a cat cut out over white", _cut_out(cat)),
        _png("a grey cup with an opaque alpha", coffee.convert("LA")),
        _saved("a cat, WebP", cat, "WEBP", quality=80),
        _saved("a rocket, BMP", rocket, "BMP"),
        _saved("a cup of coffee, GIF", coffee.quantize(128), "GIF"),
        _saved("a cat, TIFF", cat, "TIFF"),
    )


def _cut_out(image: Image.Image) -> Image.Image:
    """Make a picture transparent outside an oval, over hidden white: both sides' rules agree on it."""
    width, height = image.size
    y, x = np.ogrid[:height, :width]
    inside = ((x - width / 2) / (width / 2)) ** 2 + ((y - height / 2) / (height / 2)) ** 2 <= 1
    rgb = np.where(inside[..., None], np.asarray(image), 255).astype(np.uint8)
    alpha = np.where(inside, 255, 0).astype(np.uint8)
    return Image.fromarray(np.dstack([rgb, alpha]))


def _noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _jpeg(name: str, image: Image.Image, *, quality: int = 90, **options: object) -> Picture:
    return _saved(f"{name}, JPEG", image, "JPEG", quality=quality, **options)


def _png(name: str, image: Image.Image) -> Picture:
    return _saved(name, image, "PNG", compress_level=1)


def _saved(name: str, image: Image.Image, file_format: str, **options: object) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return Picture(name, buffer.getvalue())
