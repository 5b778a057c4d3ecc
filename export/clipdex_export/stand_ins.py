"""Pictures drawn by NumPy in place of scikit-image's photographs, for exports without scikit-image.

Each has the size of the photograph of that name, a background whose detail falls off with frequency as it does in
photographs, and a drawn scene on it.
"""

from __future__ import annotations

from random import Random

import numpy as np
from PIL import Image

from clipdex_export.demo.draw import draw
from clipdex_export.demo.sampling import sample_scene

__all__ = ["SIZES", "stand_in"]

# Width and height of scikit-image's files.
SIZES = {
    "astronaut.png": (512, 512),
    "chelsea.png": (451, 300),
    "coffee.png": (600, 400),
    "rocket.jpg": (640, 427),
    "hubble_deep_field.jpg": (1000, 872),
    "retina.jpg": (1411, 1411),
    "motorcycle_left.png": (741, 500),
    "page.png": (384, 191),
    "grass.png": (512, 512),
}


def stand_in(name: str) -> Image.Image:
    """Draw the picture that takes the place of a photograph -> RGB; the same at every call."""
    width, height = SIZES[name]
    image = _background(width, height, sum(name.encode()))
    side = min(width, height) * 2 // 3
    scene = draw(sample_scene(Random(f"stand-in/{name}")), f"stand-in/{name}", size=side)
    image.paste(scene, ((width - side) // 3, (height - side) // 2))
    return image


def _background(width: int, height: int, seed: int) -> Image.Image:
    """Draw noise whose amplitude is the inverse of its frequency, in colours that agree from place to place."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf  # no mean
    planes = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency
        plane = np.fft.irfft2(spectrum, s=(height, width))
        planes.append(plane / plane.std())
    grey, *tints = planes
    channels = [grey + 0.4 * tint for tint in (*tints, grey)]
    values = np.stack([128 + 52 * channel for channel in channels], axis=-1)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))
