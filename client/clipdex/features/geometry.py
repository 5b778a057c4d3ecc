"""Whether one picture shows a part of another, and which: the geometry of the points that they share.

Two points that look alike each say how the pictures lie to each other: by how much one is turned, scaled and
moved.
The pairs that say the same are looked for first, all at once, and OpenCV's MAGSAC fits a transform to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.looks.local_features import LocalFeatures, opencv

__all__ = [
    "DEFAULT_MIN_INLIERS",
    "MOST_COMPARED",
    "PARTS",
    "SAME",
    "Fit",
    "Pairs",
    "Rule",
    "area",
    "corners",
    "fit",
    "mapped",
    "numbers",
    "overlap",
    "pairs_of",
    "roughly_agreeing",
]

DEFAULT_MIN_INLIERS = 8

_LEAST_PAIRS = 4
MOST_COMPARED = 2000  # points of a picture, the most distinctive: the memory grows with the square
_MOST_PAIRS = 1000
_PIXELS = 3.0  # how far a point may be off, in a picture made so small:
_SMALL = 1024.0
_LOOSE, _LOOSER = 3.0, 0.12  # for one pair: so many times that, and this share of the distance from the pair
_PLACE = 3.0  # pixels that are one place
_MAX_SCALE_RATIO = np.log(1.8)
_MAX_TURN = 0.52  # radians
_HYPOTHESES = 3
_ROUGHLY = 0.75  # of the inliers asked for: as many pairs must roughly agree before a transform is fitted to them
_MAX_ZOOM, _MAX_STRETCH = 24.0, 3.5
_HOMOGRAPHY_FROM = 10  # inliers; fewer points do not tell a perspective from noise
_CELLS = 16  # of the region where two pictures overlap, a power of two
_LARGEST = 0.81  # of the squared distance to the second nearest: Lowe's ratio, 0.9

_Floats = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of points of two pictures that look alike: rows of their points, int64 (m,) each."""

    query: _Rows
    found: _Rows

    def __len__(self) -> int:
        return len(self.query)


@dataclass(frozen=True, eq=False)
class Fit:
    """How a query lies in a picture.

    inliers: pairs at different places that agree. share: of all points where the two overlap, of the picture with
    fewer. model: "affine" or "homography". transform: float64 (3, 3), from the query's pixels to the picture's.
    contained: the share of the area of one of the two that the other shows, of that with the larger share.
    spread: how evenly the points that agree lie among all points where the two overlap: 1 as if drawn at random
    from them, less if they keep to a part.
    """

    inliers: int
    share: float
    model: str
    transform: _Floats
    contained: float = 1.0
    spread: float = 1.0


@dataclass(frozen=True)
class Rule:
    """What a `Fit` must have for two pictures to match.

    min_roots: its inliers, in square roots of the number of points where the two overlap, whose chance agreements
    grow with it. Others: see there.
    """

    min_share: float
    min_roots: float = 0.0
    min_contained: float = 0.0
    min_spread: float = 0.0

    def accepts(self, fit: Fit) -> bool:
        """Return whether a fit has all of it."""
        return (
            fit.share >= self.min_share
            and (fit.inliers * fit.share) ** 0.5 >= self.min_roots
            and fit.contained >= self.min_contained
            and fit.spread >= self.min_spread
        )


# Measured: benchmarks/local_matching.py prints recall and false matches around them.
SAME = Rule(0.03, 1.2, 0.75, 0.7)  # the two are the same where they overlap, and that is most of one of them
PARTS = Rule(0.08)  # the two have something in common, if only an icon or a heading


def numbers(descriptors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Turn descriptors into numbers whose squared Euclidean distance is theirs; of ORB, bits into 0 and 1."""
    if descriptors.shape[1] == 32:
        return np.unpackbits(descriptors, axis=1).astype(np.float32)
    return descriptors.astype(np.float32)


def pairs_of(query: LocalFeatures, found: LocalFeatures) -> Pairs:
    """Pair the points that are each other's nearest by their descriptors and clearly nearer than the second."""
    none = np.empty(0, np.int64)
    if len(query) < 2 or len(found) < 2:
        return Pairs(none, none)
    a, b = numbers(query.descriptors[:MOST_COMPARED]), numbers(found.descriptors[:MOST_COMPARED])
    near = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)[None] - 2 * (a @ b.T)
    best = near.argmin(axis=1)
    mutual = np.flatnonzero(near.argmin(axis=0)[best] == np.arange(len(a)))
    best, near = best[mutual], near[mutual]
    least = near[np.arange(len(mutual)), best]
    # SIFT may describe one place twice; the second of a place is no rival.
    places = found.points[:MOST_COMPARED]
    near[_apart(places[best], places) < (2.0 * _unit(found)) ** 2] = np.inf
    good = np.flatnonzero(least <= _LARGEST * near.min(axis=1))[:_MOST_PAIRS]
    return Pairs(mutual[good], best[good].astype(np.int64))


def fit(
    query: LocalFeatures,
    found: LocalFeatures,
    pairs: Pairs | None = None,
    *,
    rule: Rule = SAME,
    least: int = _LEAST_PAIRS,
) -> Fit | None:
    """Find how a query lies in a picture; None if their points do not agree on anything plausible.

    pairs: those to look at, if not `pairs_of` both. rule: what must be met. least: the fewest inliers. Mirrored
    pictures do not agree.
    """
    pairs = pairs_of(query, found) if pairs is None else pairs
    if len(pairs) < max(least, _LEAST_PAIRS):
        return None
    p, q, zoom, turn = _placed(query, found, pairs)
    unit = _unit(found)
    best: Fit | None = None
    for chosen in _hypotheses(p, q, zoom, turn, unit, max(_LEAST_PAIRS, round(_ROUGHLY * least))):
        tolerance = _PIXELS * max(unit, float(np.exp(np.median(zoom[chosen]))) * _unit(query))
        for model in ("affine", "homography"):
            if model == "homography" and (best is None or best.inliers < _HOMOGRAPHY_FROM):
                break
            transform = _fitted(model, p[chosen], q[chosen], tolerance)
            if transform is None or not _is_plausible(transform, query.size):
                continue
            agree = _agreeing(transform, p, q, zoom, turn, tolerance)
            inliers = _different(p[agree], q[agree], tolerance)
            if inliers < _LEAST_PAIRS or _in_a_line(q[agree], tolerance):
                continue
            if best is None or inliers > best.inliers * (1.1 if model != best.model else 1.0):
                common, agreeing = _common(transform, query, found, pairs, agree)
                share, spread = inliers / max(1, len(common)), _spread(common, agreeing, inliers)
                contained = _contained(transform, query.size, found.size)
                best = Fit(inliers, min(1.0, share), model, transform, contained, spread)
    return best if best is not None and best.inliers >= least and rule.accepts(best) else None


def roughly_agreeing(query: LocalFeatures, found: LocalFeatures, pairs: Pairs) -> int:
    """Count the places of a query whose pairs roughly say the same of how it lies in a picture: the most that do.

    It is what `fit` begins with, and much cheaper than the rest.
    """
    if not len(pairs):
        return 0
    p, q, zoom, turn = _placed(query, found, pairs)
    agree = _alike(p, q, zoom, turn, _unit(found))
    seed = int(agree.sum(axis=1).argmax())
    return _places(p[agree[seed]], _PLACE)


def _placed(query: LocalFeatures, found: LocalFeatures, pairs: Pairs) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Return where the points of pairs are, (m, 2) each, and log scale and turn between them."""
    p, q = query.points[pairs.query].astype(np.float64), found.points[pairs.found].astype(np.float64)
    zoom = np.log(np.maximum(found.scales[pairs.found], 1e-3) / np.maximum(query.scales[pairs.query], 1e-3))
    turn = found.angles[pairs.found] - query.angles[pairs.query]
    return p, q, zoom.astype(np.float64), turn.astype(np.float64)


def _unit(features: LocalFeatures) -> float:
    """Return how many of a picture's pixels are one if its longer side is made to have 1,024."""
    return max(1.0, max(features.size) / _SMALL)


def _apart(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Squared distances: (n, 2), (m, 2) -> (n, m)."""
    across, down = (one[:, None, axis] - other[None, :, axis] for axis in (0, 1))
    across *= across
    down *= down
    return across + down  # type: ignore[no-any-return]


def _turned(angle: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bring an angle into -π to π."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _hypotheses(
    p: _Floats, q: _Floats, zoom: _Floats, turn: _Floats, unit: float, least: int = _LEAST_PAIRS
) -> list[_Rows]:
    """Take each pair as a similarity, and find those with which most others agree -> rows of agreeing pairs.

    least: the fewest pairs of each.
    """
    agree = _alike(p, q, zoom, turn, unit)
    found = []
    for _ in range(_HYPOTHESES):
        counts = agree.sum(axis=1)
        seed = int(counts.argmax())
        if counts[seed] < least:
            break
        found.append(np.flatnonzero(agree[seed]))
        agree &= ~agree[seed][None]  # the next is of other pairs
    return found


def _alike(p: _Floats, q: _Floats, zoom: _Floats, turn: _Floats, unit: float) -> npt.NDArray[np.bool_]:
    """Take each of m pairs as a similarity, and tell which others agree with it -> bool (m, m), a row each."""
    # Complex numbers: a similarity is one factor.
    zp, zq = p[:, 0] + 1j * p[:, 1], q[:, 0] + 1j * q[:, 1]
    factor = np.exp(zoom + 1j * turn)
    from_seed = zp[None] - zp[:, None]  # [seed, other]
    off = np.abs(zq[None] - (zq[:, None] + factor[:, None] * from_seed))
    allowed = _LOOSE * _PIXELS * np.maximum(unit, np.exp(zoom))[:, None] + _LOOSER * np.abs(
        factor[:, None] * from_seed
    )
    agree = (off <= allowed) & (np.abs(zoom[None] - zoom[:, None]) <= _MAX_SCALE_RATIO)
    agree &= np.abs(_turned(turn[None] - turn[:, None])) <= _MAX_TURN
    return np.asarray(agree, np.bool_)


def _fitted(model: str, p: _Floats, q: _Floats, tolerance: float) -> _Floats | None:
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


def _cut(region: _Floats, inside: npt.NDArray[Any]) -> _Floats:
    """Keep the part of a convex region where a linear function, given at its corners, is not negative."""
    kept = []
    for k in range(len(region)):
        one, other = k - 1, k
        if (inside[one] < 0) != (inside[other] < 0):
            along = inside[one] / (inside[one] - inside[other])
            kept.append(region[one] + along * (region[other] - region[one]))
        if inside[other] >= 0:
            kept.append(region[other])
    return np.array(kept, np.float64).reshape(-1, 2)


def area(region: _Floats) -> float:
    """The area of a region by its corners."""
    if len(region) < 3:
        return 0.0
    x, y = region[:, 0], region[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _jacobians(transform: _Floats, points: npt.NDArray[Any]) -> _Floats:
    """The derivatives of a transform at points: (n, 2, 2)."""
    w = points @ transform[2, :2] + transform[2, 2]
    there = mapped(transform, points)
    return np.asarray(
        (transform[None, :2, :2] - there[:, :, None] * transform[2, None, None, :2]) / w[:, None, None], np.float64
    )


def _is_plausible(transform: _Floats, size: tuple[int, int]) -> bool:
    """Return whether a transform has no fold, no mirror, and no extreme zoom or stretch."""
    at = np.vstack([corners(size), corners(size).mean(axis=0)])
    if (at @ transform[2, :2] + transform[2, 2] <= 0.05).any():
        return False  # a corner is at the horizon or behind it
    for jacobian in _jacobians(transform, at):
        if np.linalg.det(jacobian) <= 0:
            return False
        large, small = np.linalg.svd(jacobian, compute_uv=False)
        if not (small > 1 / _MAX_ZOOM and large < _MAX_ZOOM and large <= _MAX_STRETCH * small):
            return False
    return True


def _agreeing(
    transform: _Floats, p: _Floats, q: _Floats, zoom: _Floats, turn: _Floats, tolerance: float
) -> npt.NDArray[np.bool_]:
    """Return which pairs are where a transform says, and scaled and turned as it says."""
    near = np.linalg.norm(mapped(transform, p) - q, axis=1) <= tolerance
    jacobian = _jacobians(transform, p)
    determinant = np.maximum(np.linalg.det(jacobian), 1e-12)
    angle = np.arctan2(jacobian[:, 1, 0] - jacobian[:, 0, 1], jacobian[:, 0, 0] + jacobian[:, 1, 1])
    near &= np.abs(zoom - 0.5 * np.log(determinant)) <= _MAX_SCALE_RATIO
    near &= np.abs(_turned(turn - angle)) <= _MAX_TURN
    return np.asarray(near, np.bool_)


def _different(p: _Floats, q: _Floats, tolerance: float) -> int:
    """Count the pairs at different places of both pictures."""
    return min(_places(p, _PLACE), _places(q, max(_PLACE, tolerance)))


def _places(points: _Floats, cell: float) -> int:
    """Count the cells of a grid that have some of the points."""
    return len(np.unique(np.floor(points / cell) @ np.array([1, 1j])))


def _in_a_line(points: _Floats, tolerance: float) -> bool:
    """Return whether points are so near to one line that they do not fix a transform."""
    spread = np.linalg.eigvalsh(np.cov(points.T))
    return bool(np.sqrt(max(0.0, float(spread[0]))) < 1.5 * tolerance)


def _common(
    transform: _Floats, query: LocalFeatures, found: LocalFeatures, pairs: Pairs, agree: npt.NDArray[np.bool_]
) -> tuple[_Floats, _Floats]:
    """Find the points that lie in the other picture, of that with fewer -> all, and those that agree: (n, 2)."""

    def inside(points: _Floats, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        return np.asarray(((points >= 0) & (points < size)).all(axis=1), np.bool_)

    in_found = inside(mapped(transform, query.points), found.size)
    in_query = inside(mapped(np.linalg.inv(transform), found.points), query.size)
    if in_found.sum() <= in_query.sum():
        points, there, rows = query.points, in_found, pairs.query
    else:
        points, there, rows = found.points, in_query, pairs.found
    wide = points.astype(np.float64)
    return wide[there], wide[rows[agree]]


def _contained(transform: _Floats, query: tuple[int, int], found: tuple[int, int]) -> float:
    """The share of the area of one of two pictures that the other shows, of that with the larger share."""
    there = overlap(transform, query, found)
    if not len(there):
        return 0.0
    here = mapped(np.linalg.inv(transform), there)
    return min(1.0, max(area(there) / (found[0] * found[1]), area(here) / (query[0] * query[1])))


def _spread(points: _Floats, some: _Floats, count: int) -> float:
    """Tell how evenly some of the points lie among all of them: 1 as if drawn at random, less if in fewer places.

    count: how many of them are at different places.
    """
    expected = 1 - (1 - 1 / _CELLS) ** count
    return min(1.0, _cells_with(points, some, _CELLS) / expected)


def _cells_with(points: _Floats, some: _Floats, cells: int) -> float:
    """Cut the plane into cells that have equally many points -> the share of the cells that have some of them."""
    if cells == 1 or len(points) < 2 or not len(some):
        return float(len(some) > 0)
    axis = int(np.ptp(points, axis=0).argmax())
    middle = np.median(points[:, axis])
    low, some_low = points[:, axis] < middle, some[:, axis] < middle
    if not low.any():
        return 1.0
    halves = (points[low], some[some_low]), (points[~low], some[~some_low])
    return sum(_cells_with(*half, cells // 2) for half in halves) / 2
