"""Samples of more than 8 bits become 8 bits.

White is the most that the kind of sample can be; but of a picture that uses less than a quarter of that, white
is what it uses. So 12 bits in 16, reflectances and heights are seen, and a photograph that fills its range is as
it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdex.model.formats.flatten import strips

__all__ = ["SampleRange", "full_scale", "grey_to_rgb", "to_eight_bits"]

Samples = npt.NDArray[Any]

# A picture uses the value that so many of its samples do not exceed, and at least this share of its largest: a few
# hot pixels do not make it dark, and a bright thing that is small does not vanish in the noise around it.
_QUANTILE = 0.999
_OF_LARGEST = 1 / 8
_USES_LITTLE = 1 / 4


class SampleRange:
    """How large the samples of a picture are, gathered a part at a time."""

    def __init__(self) -> None:
        self.top = 0.0
        # By the upper 16 bits of their float32 without the sign: that orders them, to 1 part in 256.
        self._counts = np.zeros(1 << 16, dtype=np.int64)

    def add(self, samples: Samples) -> None:
        """Count samples of any shape and dtype; negative and missing ones are 0."""
        if not samples.size:
            return
        values = finite(samples)
        self.top = max(self.top, float(values.max()))
        order = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32) >> 15
        self._counts += np.bincount(order.ravel(), minlength=len(self._counts))

    def white(self, full: float) -> float:
        """The value that means white, where `full` is the most that a sample can be."""
        used = max(self._quantile(), self.top * _OF_LARGEST)
        return used if 0 < used < full * _USES_LITTLE else full

    def _quantile(self) -> float:
        counted = np.cumsum(self._counts)
        at = int(np.searchsorted(counted, _QUANTILE * counted[-1]))
        above = np.array([at + 1 << 15], dtype=np.uint32).view(np.float32)[0]
        return min(self.top, float(above))


def full_scale(dtype: np.dtype[Any], bits: int, top: float) -> float:
    """The most that samples can be, of which `top` is the largest.

    Values up to 255 are those of 8 bits, whatever holds them, and floats up to 1 are shares of white. Wider ones
    have no scale of their own: 16 bits if they fit, else the largest of them.
    """
    if dtype.kind == "f" and top <= 1.0:
        return 1.0
    if top <= 255:
        return 255.0
    if dtype.kind != "f" and bits <= 16:
        return float(2 ** (bits - (dtype.kind == "i")) - 1)
    return max(top, 65535.0)


def finite(samples: Samples) -> Samples:
    """The samples, with 0 for what is negative, infinite or no number."""
    if samples.dtype.kind == "u":
        return samples
    if samples.dtype.kind == "i":
        samples = np.maximum(samples, 0)
        return samples
    sound = np.where(np.isfinite(samples), samples, 0)
    above: Samples = np.maximum(sound, 0)
    return above


def to_eight_bits(samples: Samples, white: float) -> npt.NDArray[np.uint8]:
    """Scaled from 0 to `white`, and rounded."""
    scaled = np.rint(finite(samples).astype(np.float64) * (255.0 / white))
    eight: npt.NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
    return eight


def grey_to_rgb(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """A Pillow image of deep greys (I;16, I or F): Pillow's own conversion would clip them to white."""
    dtype, bits = np.asarray(image.crop((0, 0, 1, 1))).dtype, 16 if image.mode.startswith("I;16") else 32
    used = SampleRange()
    for box in strips(image.size):
        used.add(np.asarray(image.crop(box)))
    white = used.white(full_scale(dtype, bits, used.top))
    key = image.info.get("transparency")
    rgb = Image.new("RGB", image.size)
    for box in strips(image.size):
        values = np.asarray(image.crop(box))
        rgb.paste(Image.fromarray(to_eight_bits(values, white)).convert("RGB"), box)
        if isinstance(key, int):
            rgb.paste(fill, box, Image.fromarray(values == key))
    return rgb
