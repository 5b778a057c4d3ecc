"""Signatures as arrays, and the frequencies of a trimmed picture computed from those of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from clipdex.looks.signature import FREQUENCIES, PHASH_BYTES, SIGNATURE_BYTES

__all__ = ["TRIM", "Floats", "Looks", "Rows", "expanded", "trimmed"]

Floats: TypeAlias = npt.NDArray[np.float32]
Rows: TypeAlias = npt.NDArray[np.int64]

# The share of its width and of its height that may be cut off a copy.
TRIM = 0.05

_SIDE = 32  # of the square that was transformed; docs/index-format.md
_COLOUR_SIDE = 8
_COUNT = FREQUENCIES * FREQUENCIES

# Below this standard deviation, in grey levels of 255, noise is as strong as what the picture shows.
_PLAIN = 1.0

# Pictures that differ more are not copies: logarithm of the aspect ratio; levels of 255 of grey, and of colour.
_MAX_ASPECT = float(np.log(1.12))
_MAX_TINTS = np.array([8.0] + 6 * [5.0], dtype=np.float32)


@dataclass(frozen=True)
class Looks:
    """The signatures of n pictures as arrays.

    frequencies: int8 (n, 144), companded.
    tints: float32 (n, 7), in levels of 255: the mean of the greys; of Cb and Cr the mean and the slopes.
    aspects: float32 (n,), the logarithm of width / height. plain: bool (n,), too plain to be compared.
    """

    frequencies: npt.NDArray[np.int8]
    tints: Floats
    aspects: Floats
    plain: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.frequencies)

    @classmethod
    def of(cls, signatures: bytes, sizes: npt.NDArray[np.int64]) -> Looks:
        """Unpack signatures. signatures: n of them, concatenated. sizes: (n, 2), width and height in pixels."""
        table = np.frombuffer(signatures, dtype=np.uint8).reshape(-1, SIGNATURE_BYTES)
        kept = table[:, PHASH_BYTES:].view(np.int8)
        frequencies = np.ascontiguousarray(kept[:, :_COUNT])
        tints = expanded(kept[:, [0, *range(_COUNT, _COUNT + 6)]]) / ([_SIDE] + 6 * [_COLOUR_SIDE])
        plain = np.empty(len(table), dtype=np.bool_)
        for start in range(0, len(table), 65_536):
            block = expanded(frequencies[start : start + 65_536, 1:])
            plain[start : start + 65_536] = np.einsum("ij,ij->i", block, block) < (_PLAIN * _SIDE) ** 2
        width, height = np.maximum(sizes, 1).astype(np.float32).T
        return cls(frequencies, tints.astype(np.float32), np.log(width / height), plain)

    def may_be_copies(self, one: Rows, other: Rows) -> npt.NDArray[np.bool_]:
        """Find the pairs of nearly the same shape, brightness and colours: bool (m,)."""
        alike = np.abs(self.aspects[one] - self.aspects[other]) <= _MAX_ASPECT
        left = np.flatnonzero(alike)
        near = np.abs(self.tints[one[left]] - self.tints[other[left]]) <= _MAX_TINTS
        alike[left] = near.all(axis=1)
        return np.asarray(alike)

    def take(self, chosen: Rows) -> Looks:
        """Return the chosen pictures."""
        return Looks(self.frequencies[chosen], self.tints[chosen], self.aspects[chosen], self.plain[chosen])


def expanded(companded: npt.NDArray[np.int8]) -> Floats:
    """Undo the companding of a signature's frequencies, of any shape."""
    wide = companded.astype(np.float32)
    return np.asarray(np.sign(wide) * wide * wide * np.float32(0.25))


@cache
def trimmed(low: float, high: float) -> Floats:
    """Return float32 (12, 12), which maps frequencies along one axis to those of its part [low, high), 0 to 1."""
    places = (np.arange(_SIDE) + 0.5) / _SIDE
    waves = np.arange(FREQUENCIES)
    scale = np.where(waves == 0, np.sqrt(1 / _SIDE), np.sqrt(2 / _SIDE))
    there = (
        np.cos(np.pi * np.outer(low + (high - low) * places, waves)) * scale
    )  # frequencies -> greys of the part
    back = np.cos(np.pi * np.outer(places, waves)) * scale  # greys -> frequencies
    return np.asarray(back.T @ there, dtype=np.float32)
