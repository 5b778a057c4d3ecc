"""Perceptual similarity of two pictures, allowing for trimmed edges."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipdex.looks.frequencies import TRIM, Floats, Looks, Rows, expanded, trimmed
from clipdex.looks.signature import FREQUENCIES

__all__ = ["MIN_SIMILARITY", "similarities"]

# Measured: benchmarks/near_duplicates.py prints recall and precision around it.
MIN_SIMILARITY = 0.96

# A coarse alignment is off by at most half a step, which costs at most this much similarity.
_SLACK = 0.15

_COARSE = ((0.0, 1.0), (0.0, 1 - TRIM), (TRIM / 2, 1 - TRIM / 2), (TRIM, 1.0))
_FINE = tuple((TRIM * step / 8, 1 - TRIM + TRIM * step / 8) for step in range(9))

# The highest frequencies of a trimmed picture partly come from still higher ones, which signatures lack.
_ALONG = np.array([1.0] * 9 + [0.75, 0.5, 0.3], dtype=np.float32)
_WEIGHTS = np.outer(_ALONG, _ALONG)
_WEIGHTS[0, 0] = 0  # brightness is compared separately
_AT_ONCE = 2048


def similarities(looks: Looks, one: Rows, other: Rows, enough: float) -> Floats:
    """Compute the similarity of m pairs: float32 (m,), at most 1; 0 if they differ in shape, brightness or colour.

    Either picture may be the other with up to 5 % of its width and height cut off. Once `enough` is reached, no
    better alignment is searched for.
    """
    found = np.zeros(len(one), dtype=np.float32)
    alike = looks.may_be_copies(one, other)
    for start in range(0, len(one), _AT_ONCE):
        part = start + np.flatnonzero(alike[start : start + _AT_ONCE])
        a, b = looks.frequencies[one[part]], looks.frequencies[other[part]]
        best = np.maximum(_aligned(a, b, _COARSE), _aligned(b, a, _COARSE))
        near = np.flatnonzero((best < enough) & (best >= enough - _SLACK))
        finer = np.maximum(_aligned(a[near], b[near], _FINE), _aligned(b[near], a[near], _FINE))
        best[near] = np.maximum(best[near], finer)
        found[part] = best
    return found


def _aligned(
    whole: npt.NDArray[np.int8], part: npt.NDArray[np.int8], intervals: tuple[tuple[float, float], ...]
) -> Floats:
    """Return the best similarity over all ways to trim the first: (m, 144), (m, 144) -> (m,)."""
    square = (-1, FREQUENCIES, FREQUENCIES)
    given = expanded(whole).reshape(square)
    wanted = part.astype(np.float32).reshape(square) / 2 * _WEIGHTS
    wanted_norm = np.einsum("mij,mij->m", wanted, wanted)
    best = np.full(len(whole), -1.0, dtype=np.float32)
    for down in intervals:
        half = trimmed(*down) @ given
        for across in intervals:
            view = half @ trimmed(*across).T
            view = np.sign(view) * np.sqrt(np.abs(view)) * _WEIGHTS
            dot = np.einsum("mij,mij->m", view, wanted)
            norm = np.einsum("mij,mij->m", view, view)
            best = np.maximum(best, 2 * dot / np.maximum(norm + wanted_norm, 1e-6))
    return best
