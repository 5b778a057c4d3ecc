"""Conversion of samples with more than 8 bits to 8 bits.

White is the largest value of the sample type; in a picture that uses less than a quarter of the range, white is
the largest value it uses. So 12 bits in 16, reflectances and heights become visible, and a photograph that fills
its range is unchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdex.model.formats.flatten import strips

__all__ = ["SampleRange", "full_scale", "grey_to_rgb", "to_eight_bits"]

Samples = npt.NDArray[Any]

# The value that a picture uses is this quantile of its samples, and at least this share of the largest: a few hot
# pixels do not make it dark, and a small bright object does not vanish in the noise around it.
_QUANTILE = 0.999
_OF_LARGEST = 1 / 8
_USES_LITTLE = 1 / 4


class SampleRange:
    """The distribution of a picture's samples, gathered one part at a time."""

    def __init__(self) -> None:
        self.top = 0.0
        # Counted by the upper 16 bits of their float32 without the sign, which orders them to 1 part in 256.
        self._counts = np.zeros(1 << 16, dtype=np.int64)

    def add(self, samples: Samples) -> None:
        """Count samples of any shape and dtype; negative and missing ones count as 0."""
        if not samples.size:
            return
        values = finite(samples)
        self.top = max(self.top, float(values.max()))
        order = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32) >> 15
        self._counts += np.bincount(order.ravel(), minlength=len(self._counts))

    def white(self, full: float) -> float:
        """Return the value that means white. full: the largest possible sample."""
        used = max(self._quantile(), self.top * _OF_LARGEST)
        return used if 0 < used < full * _USES_LITTLE else full

    def _quantile(self) -> float:
        counted = np.cumsum(self._counts)
        at = int(np.searchsorted(counted, _QUANTILE * counted[-1]))
        above = np.array([at + 1 << 15], dtype=np.uint32).view(np.float32)[0]
        return min(self.top, float(above))


def full_scale(dtype: np.dtype[Any], bits: int, top: float) -> float:
    """Return the largest possible sample. top: the largest one present.

    Values up to 255 are taken as 8-bit, whatever their type, and floats up to 1 as fractions of white. Wider types
    have no scale of their own: 16 bits if the values fit, else the largest of them.
    """
    if dtype.kind == "f" and top <= 1.0:
        return 1.0
    if top <= 255:
        return 255.0
    if dtype.kind != "f" and bits <= 16:
        return float(2 ** (bits - (dtype.kind == "i")) - 1)
    return max(top, 65535.0)


def finite(samples: Samples) -> Samples:
    """Return the samples with 0 for negative, infinite and NaN values."""
    if samples.dtype.kind == "u":
        return samples
    if samples.dtype.kind == "i":
        samples = np.maximum(samples, 0)
        return samples
    sound = np.where(np.isfinite(samples), samples, 0)
    above: Samples = np.maximum(sound, 0)
    return above


def to_eight_bits(samples: Samples, white: float) -> npt.NDArray[np.uint8]:
    """Scale samples from 0..white to 0..255, and round."""
    scaled = np.rint(finite(samples).astype(np.float64) * (255.0 / white))
    eight: npt.NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
    return eight


def grey_to_rgb(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """Convert a Pillow image of deep greys (I;16, I or F) to RGB; Pillow itself would clip them to white."""
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
