"""Whether one picture shows a part of another, and which: the geometry of the points that they share.

Two points that look alike each say how the pictures lie to each other: by how much one is turned, scaled and
moved. The pairs that say the same are looked for first, all at once, and OpenCV's MAGSAC fits a transform to them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.features.decision import SAME, Fit, Rule
from clipdex.features.pairs import Pairs, pairs_of, unit_of
from clipdex.features.transforms import (
    fitted,
    inside,
    is_plausible,
    jacobians,
    log_zooms,
    mapped,
    shares_shown,
    turns,
)
from clipdex.looks.local_features import LocalFeatures

__all__ = ["fit", "roughly_agreeing"]

_LEAST_PAIRS = 4
_PIXELS = 3.0  # how far a point may be off, in a picture whose longer side has 1,024
_LOOSE, _LOOSER = 3.0, 0.12  # for one pair: so many times that, and this share of the distance from the pair
_PLACE = 3.0  # pixels that are one place
_MAX_SCALE_RATIO = np.log(1.8)
_MAX_TURN = 0.52  # radians
_HYPOTHESES = 3
_ROUGHLY = 0.75  # of the inliers asked for: as many pairs must roughly agree before a transform is fitted to them
_HOMOGRAPHY_FROM = 10  # inliers; fewer points do not tell a perspective from noise
_CELLS = 16  # of the region where two pictures overlap, a power of two

_Floats = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.int64]


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
    unit = unit_of(found)
    best: Fit | None = None
    for chosen in _hypotheses(p, q, zoom, turn, unit, max(_LEAST_PAIRS, round(_ROUGHLY * least))):
        tolerance = _PIXELS * max(unit, float(np.exp(np.median(zoom[chosen]))) * unit_of(query))
        for model in ("affine", "homography"):
            if model == "homography" and (best is None or best.inliers < _HOMOGRAPHY_FROM):
                break
            transform = fitted(model, p[chosen], q[chosen], tolerance)
            if transform is None or not is_plausible(transform, query.size):
                continue
            agree = _agreeing(transform, p, q, zoom, turn, tolerance)
            inliers = _different(p[agree], q[agree], tolerance)
            if inliers < _LEAST_PAIRS or _in_a_line(q[agree], tolerance):
                continue
            if best is None or inliers > best.inliers * (1.1 if model != best.model else 1.0):
                best = _described(model, transform, query, found, pairs, agree, inliers)
    return best if best is not None and best.inliers >= least and rule.accepts(best) else None


def _described(
    model: str,
    transform: _Floats,
    query: LocalFeatures,
    found: LocalFeatures,
    pairs: Pairs,
    agree: npt.NDArray[np.bool_],
    inliers: int,
) -> Fit:
    """Measure what a transform explains. agree: bool (m,), of the pairs."""
    of_query = inside(mapped(transform, query.points), found.size)
    back = np.asarray(np.linalg.inv(transform), np.float64)
    of_found = inside(mapped(back, found.points), query.size)
    sides = (query.points, of_query, pairs.query), (found.points, of_found, pairs.found)
    points, there, rows = sides[int(of_found.sum() < of_query.sum())]
    wide = points.astype(np.float64)
    spread = _spread(wide[there], wide[rows[agree]], inliers)
    share = min(1.0, inliers / max(1, int(there.sum())))
    shown = shares_shown(transform, back, query.size, found.size)
    _, there, rows = sides[int(np.argmax(shown))]
    ratio = agree.sum() / max(1, int((there[rows] | agree).sum()))
    return Fit(inliers, share, model, transform, max(shown), spread, float(ratio))


def roughly_agreeing(query: LocalFeatures, found: LocalFeatures, pairs: Pairs) -> int:
    """Count the places of a query whose pairs roughly say the same of how it lies in a picture: the most that do.

    It is what `fit` begins with, and much cheaper than the rest.
    """
    if not len(pairs):
        return 0
    p, q, zoom, turn = _placed(query, found, pairs)
    agree = _alike(p, q, zoom, turn, unit_of(found))
    seed = int(agree.sum(axis=1).argmax())
    return _places(p[agree[seed]], _PLACE)


def _placed(query: LocalFeatures, found: LocalFeatures, pairs: Pairs) -> tuple[_Floats, _Floats, _Floats, _Floats]:
    """Return where the points of pairs are, (m, 2) each, and log scale and turn between them."""
    p, q = query.points[pairs.query].astype(np.float64), found.points[pairs.found].astype(np.float64)
    zoom = np.log(np.maximum(found.scales[pairs.found], 1e-3) / np.maximum(query.scales[pairs.query], 1e-3))
    turn = found.angles[pairs.found] - query.angles[pairs.query]
    return p, q, zoom.astype(np.float64), turn.astype(np.float64)


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


def _agreeing(
    transform: _Floats, p: _Floats, q: _Floats, zoom: _Floats, turn: _Floats, tolerance: float
) -> npt.NDArray[np.bool_]:
    """Return which pairs are where a transform says, and scaled and turned as it says."""
    near = np.linalg.norm(mapped(transform, p) - q, axis=1) <= tolerance
    there = jacobians(transform, p)
    near &= np.abs(zoom - log_zooms(there)) <= _MAX_SCALE_RATIO
    near &= np.abs(_turned(turn - turns(there))) <= _MAX_TURN
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
