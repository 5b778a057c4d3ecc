"""How one picture lies in another, as a transform of pixels: its fit, its region, and whether it is plausible."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.looks.local_features import opencv

__all__ = [
    "area",
    "corners",
    "fitted",
    "inside",
    "is_plausible",
    "jacobians",
    "log_zooms",
    "mapped",
    "overlap",
    "shares_shown",
    "turns",
]

_MAX_ZOOM, _MAX_STRETCH = 24.0, 3.5

_Floats = npt.NDArray[np.float64]


def fitted(model: str, p: _Floats, q: _Floats, tolerance: float) -> _Floats | None:
    """Fit a transform with MAGSAC -> float64 (3, 3); None if OpenCV finds none."""
    cv2 = opencv()
    cv2.setRNGSeed(0)
    try:
        if model == "affine":
            matrix, _ = cv2.estimateAffine2D(p, q, method=cv2.USAC_MAGSAC, ransacReprojThreshold=tolerance)
            matrix = None if matrix is None else np.vstack([matrix, (0, 0, 1)])
        else:
            matrix, _ = cv2.findHomography(p, q, cv2.USAC_MAGSAC, tolerance)
    except cv2.error:
        return None  # degenerate points
    if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(matrix[2, 2]) < 1e-9:
        return None
    return np.asarray(matrix / matrix[2, 2], np.float64)


def mapped(transform: _Floats, points: npt.NDArray[Any]) -> _Floats:
    """Map points (n, 2) by a transform (3, 3)."""
    whole = np.column_stack([points, np.ones(len(points))]) @ transform.T
    return np.asarray(whole[:, :2] / whole[:, 2:], np.float64)


def corners(size: tuple[int, int]) -> _Floats:
    """The corners of a picture, from the upper left clockwise, float64 (4, 2): the edges of its outer pixels."""
    width, height = size
    return np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64) - 0.5


def overlap(transform: _Floats, query: tuple[int, int], found: tuple[int, int]) -> _Floats:
    """Find where a query of a size lies in a picture of a size: corners of the region, float64 (n, 2), of pixels.

    Empty if they do not overlap, or if a corner of the query lies at the horizon of the transform.
    """
    if (corners(query) @ transform[2, :2] + transform[2, 2] <= 0).any():
        return np.empty((0, 2))
    region = mapped(transform, corners(query))
    low, high = corners(found)[0], corners(found)[2]
    for axis in (0, 1):
        for edge, sign in ((low[axis], 1.0), (high[axis], -1.0)):
            region = _cut(region, sign * (region[:, axis] - edge))
    return region


def _cut(region: _Floats, signed: npt.NDArray[Any]) -> _Floats:
    """Keep the part of a convex region where a linear function, given at its corners, is not negative."""
    kept = []
    for k in range(len(region)):
        one, other = k - 1, k
        if (signed[one] < 0) != (signed[other] < 0):
            along = signed[one] / (signed[one] - signed[other])
            kept.append(region[one] + along * (region[other] - region[one]))
        if signed[other] >= 0:
            kept.append(region[other])
    return np.array(kept, np.float64).reshape(-1, 2)


def area(region: _Floats) -> float:
    """The area of a region by its corners."""
    if len(region) < 3:
        return 0.0
    x, y = region[:, 0], region[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def jacobians(transform: _Floats, points: npt.NDArray[Any]) -> _Floats:
    """The derivatives of a transform at points: (n, 2, 2)."""
    w = points @ transform[2, :2] + transform[2, 2]
    there = mapped(transform, points)
    return np.asarray(
        (transform[None, :2, :2] - there[:, :, None] * transform[2, None, None, :2]) / w[:, None, None], np.float64
    )


def turns(derivatives: _Floats) -> _Floats:
    """The angles by which derivatives (n, 2, 2) turn, in radians: float64 (n,)."""
    return np.asarray(
        np.arctan2(derivatives[:, 1, 0] - derivatives[:, 0, 1], derivatives[:, 0, 0] + derivatives[:, 1, 1]),
        np.float64,
    )


def log_zooms(derivatives: _Floats) -> _Floats:
    """The logarithms of how much derivatives (n, 2, 2) enlarge: float64 (n,)."""
    return np.asarray(0.5 * np.log(np.maximum(np.linalg.det(derivatives), 1e-12)), np.float64)


def is_plausible(transform: _Floats, size: tuple[int, int]) -> bool:
    """Return whether a transform has no fold, no mirror, and no extreme zoom or stretch."""
    at = np.vstack([corners(size), corners(size).mean(axis=0)])
    if (at @ transform[2, :2] + transform[2, 2] <= 0.05).any():
        return False  # a corner is at the horizon or behind it
    for jacobian in jacobians(transform, at):
        if np.linalg.det(jacobian) <= 0:
            return False
        large, small = np.linalg.svd(jacobian, compute_uv=False)
        if not (small > 1 / _MAX_ZOOM and large < _MAX_ZOOM and large <= _MAX_STRETCH * small):
            return False
    return True


def shares_shown(
    transform: _Floats, back: _Floats, query: tuple[int, int], found: tuple[int, int]
) -> tuple[float, float]:
    """The share of the query's area that the picture shows, and of the picture's area that the query shows.

    back: the inverse of the transform.
    """
    there = overlap(transform, query, found)
    if not len(there):
        return 0.0, 0.0
    here = mapped(back, there)
    return min(1.0, area(here) / (query[0] * query[1])), min(1.0, area(there) / (found[0] * found[1]))


def inside(points: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Tell which points (n, 2) lie in a picture of a size -> bool (n,)."""
    return np.asarray(((points >= 0) & (points < size)).all(axis=1), np.bool_)
