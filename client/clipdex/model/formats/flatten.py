"""Processing of pictures in strips, and removal of transparency, without several copies of a picture in memory."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

__all__ = ["over", "strips", "with_alpha"]

_STRIP_PIXELS = 1 << 21


def strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes that cover a picture of this (width, height) from top to bottom."""
    width, height = size
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def with_alpha(image: Image.Image) -> Image.Image:
    """Convert a picture with transparency of any kind to RGBA."""
    if image.mode == "La":  # Pillow cannot convert this to RGBA directly
        image = image.convert("LA")
    return image.convert("RGBA")


def over(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """Lay a picture with transparency over one colour -> an RGB image."""
    rgb = Image.new("RGB", image.size)
    for box in strips(image.size):
        strip = with_alpha(image.crop(box))
        rgb.paste(Image.alpha_composite(Image.new("RGBA", strip.size, (*fill, 255)), strip).convert("RGB"), box)
    return rgb
