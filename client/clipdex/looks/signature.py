"""A picture's perceptual signature, which hardly changes when it is resized, recompressed or trimmed.

It has 158 bytes, made from the lowest frequencies (the orthonormal DCT-II of the picture's 32 × 32 greys):

    0 to 7      the pHash of 64 bits, as the `imagehash` library makes it, of the resized picture
    8 to 151    int8 (12, 12): the frequencies of the greys, vertical first
    152 to 157  int8 (2, 3): of Cb and Cr, the mean and the slopes downwards and to the right

A frequency c is stored as the nearest integer to 2·sign(c)·sqrt(|c|), at most ±127.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["FREQUENCIES", "PHASH_BYTES", "SIGNATURE_BYTES", "perceptual_signature"]

PHASH_BYTES = 8
FREQUENCIES = 12  # along each axis
SIGNATURE_BYTES = PHASH_BYTES + FREQUENCIES * FREQUENCIES + 6

_SIDE = 32
_COLOUR_SIDE = 8

# JPEG's Cb and Cr from R, G, B.
_CHROMA = np.array([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])

_Floats = npt.NDArray[np.float64]


def perceptual_signature(image: Image.Image) -> bytes:
    """Compute the signature of an RGB image of any size; a few hundred pixels are as good as more, and cheaper."""
    factors = [max(1, length // (2 * _SIDE)) for length in image.size]
    image = image.reduce((factors[0], factors[1])) if max(factors) > 1 else image
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    basis = _dct(_SIDE, FREQUENCIES)
    frequencies = _product(basis, np.asarray(grey, dtype=np.float64), basis.T)
    colours = np.asarray(image.resize((_COLOUR_SIDE, _COLOUR_SIDE), Image.Resampling.BOX), dtype=np.float64)
    chroma = np.einsum("cr,yxr->cyx", _CHROMA, colours)
    few = _dct(_COLOUR_SIDE, 2)
    slopes = np.stack([_product(few, plane, few.T) for plane in chroma])
    kept = np.concatenate([frequencies.ravel(), slopes[:, [0, 1, 0], [0, 0, 1]].ravel()])
    companded = np.rint(2 * np.sign(kept) * np.sqrt(np.abs(kept)))
    return _phash(frequencies) + bytes(np.clip(companded, -127, 127).astype(np.int8))


def _product(a: _Floats, b: _Floats, c: _Floats) -> _Floats:
    """Return a·b·c. Not with `@`: BLAS reserves tens of megabytes at its first call, which a worker may lack."""
    half: _Floats = np.einsum("ij,jk->ik", a, b)
    whole: _Floats = np.einsum("ij,jk->ik", half, c)
    return whole


def _phash(frequencies: _Floats) -> bytes:
    """Compute the pHash: a bit for each of the lowest 8 × 8 above their median, the highest bit first."""
    # imagehash's DCT is not orthonormal: twice as large for each axis, and its first by another root of two.
    unscaled = frequencies[:8, :8].copy()
    unscaled[0] *= np.sqrt(2)
    unscaled[:, 0] *= np.sqrt(2)
    return bytes(np.packbits(unscaled > np.median(unscaled)))


@cache
def _dct(points: int, count: int) -> _Floats:
    """Return the first rows of the orthonormal DCT-II: float64 (count, points)."""
    angles = np.pi / points * np.outer(np.arange(count), np.arange(points) + 0.5)
    basis: _Floats = np.cos(angles) * np.sqrt(2 / points)
    basis[0] /= np.sqrt(2)
    return basis
