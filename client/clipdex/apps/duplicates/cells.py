"""Which points may be close, without comparing all with all: cells around centres, and points near their borders.

Every point is in the cell of its nearest centre. For two points that are at most ε apart, in different cells, the
way from one to the other is at most ε long in the direction of the two centres; so one of the two, at least, is at
most ε/2 beyond the plane halfway between these. So it is enough to compare the points of each cell with each
other, and with those points of other cells that are so close to the plane between (docs/duplicates.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Cells", "cells_of"]

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_FEWEST = 40_000  # points; below, all are compared with all sooner
_CENTRES = 5  # times the square root of the number of points
_MOST_CENTRES = 16_384
_OF_A_CENTRE = 8  # sampled points, from which the centres are made
_TURNS = 2  # of moving the centres to the middle of their points
_AT_ONCE = 512  # points
_ASKED = 1024  # points, by which the work is foreseen
_WORTH = 0.5  # of the comparisons of all with all
_MOST_NEAR = 8 << 20  # points near the borders of the cells that are looked at in one pass
_UNIT = 2.0**-24


@dataclass(frozen=True)
class Cells:
    """Cells of n points.

    order: int64 (n,), the points' numbers by cell. starts: int64 (k + 1,), where each cell begins in it.
    points: float32 (n, d), in this order. centres: float32 (k, d), of norm 1. own: float32 (n,), each point's
    product with the centre of its cell. apart: ε. many: about how many cells' borders a point is near.
    """

    order: Rows
    starts: Rows
    points: Floats
    centres: Floats
    own: Floats
    apart: float
    many: float

    def compared(self) -> Iterator[tuple[int, int, Rows]]:
        """Yield, for each cell, its first point, the end, and the points of others near its border: int64 (m,).

        Points are numbered in the order of `points`.
        """
        count = len(self.centres)
        passes = max(1, math.ceil(self.many * len(self.order) / _MOST_NEAR))
        step = -(-count // passes)
        for first in range(0, count, step):
            end = min(first + step, count)
            cells, near = self._near(first, end)
            borders = np.searchsorted(cells, np.arange(end - first + 1))
            for cell in range(first, end):
                low, high = borders[cell - first : cell - first + 2]
                yield int(self.starts[cell]), int(self.starts[cell + 1]), near[low:high].astype(np.int64)

    def _near(self, first: int, end: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint32]]:
        """Find the points near the borders of cells [first, end), each of which it is not in.

        -> the cells, less `first`, ascending, and the points.
        """
        dim = self.points.shape[1]
        error = 8 * (dim + 8) * _UNIT  # of two products, and of taking one from the other
        # The product with the centre of the other cell less that with the own is a single product.
        across = np.concatenate([self.centres[first:end], np.ones((end - first, 1), np.float32)], axis=1).T.copy()
        cells, points = [np.empty(0, np.uint16)], [np.empty(0, np.uint32)]
        sizes = np.diff(self.starts)
        for start, stop, low, high in self._batches():
            closeness = self.centres[low:high] @ across[:dim]
            # Centres are of norm 1 but for rounding, as is their product.
            between = np.sqrt(np.maximum(2 - 2 * closeness, 0) + np.float32(4 * error))
            border = between * np.float32(-0.5 * self.apart * (1 + 1e-5)) - np.float32(error)
            for cell in range(max(low, first), min(high, end)):
                border[cell - low, cell - first] = np.inf
            mine = np.concatenate([self.points[start:stop], -self.own[start:stop, None]], axis=1)
            within = mine @ across >= np.repeat(border, self._shares(sizes, start, stop, low, high), axis=0)
            which, of = np.divmod(np.flatnonzero(within), end - first)
            points.append((start + which).astype(np.uint32))
            cells.append(of.astype(np.uint16))
        found = np.concatenate(cells)
        order = np.argsort(found, kind="stable")
        return found[order], np.concatenate(points)[order]

    def _batches(self) -> Iterator[tuple[int, int, int, int]]:
        """Cut the points into some at once -> first point and end, first cell and end."""
        for start in range(0, len(self.order), _AT_ONCE):
            stop = min(start + _AT_ONCE, len(self.order))
            low, high = np.searchsorted(self.starts, [start, stop - 1], "right")
            yield start, stop, int(low) - 1, int(high)

    def _shares(self, sizes: Rows, start: int, stop: int, low: int, high: int) -> Rows:
        """Count the points of a batch that are in each of its cells."""
        shares = sizes[low:high].copy()
        shares[0] = min(stop, self.starts[low + 1]) - start
        if high - low > 1:
            shares[-1] = stop - self.starts[high - 1]
        return shares


def cells_of(points: Floats, least: float, slack: float) -> Cells | None:
    """Make cells of points; None if that would save little.

    Args:
        points: float32 (n, d), whose squared norms are less than 1 + 4 × slack.
        least: the product that two close points have at least.
    """
    count = len(points)
    if count < _FEWEST:
        return None
    apart = math.sqrt(max(0.0, 2 * (1 + 4 * slack - least)))
    centres = _centres(points, min(_MOST_CENTRES, int(_CENTRES * math.sqrt(count))))
    asked = points[np.linspace(0, count - 1, _ASKED).astype(np.int64)]
    cell, own = _nearest(asked, centres)
    own_to_all = np.sqrt(np.maximum(0, 2 - 2 * centres[cell] @ centres.T))
    many = float((asked @ centres.T >= own[:, None] - apart / 2 * own_to_all).sum(axis=1).mean())
    if (1 + many) / len(centres) > _WORTH / 2:
        return None
    cell, own = _nearest(points, centres)
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], np.arange(len(centres) + 1))
    return Cells(order, starts, points[order], centres, own[order], apart, many)


def _centres(points: Floats, count: int) -> Floats:
    """Choose centres by a few turns of k-means on a sample, of norm 1: float32 (count, d)."""
    rng = np.random.default_rng(0)
    sample = points[np.sort(rng.choice(len(points), min(len(points), _OF_A_CENTRE * count), replace=False))]
    sample = sample[np.isfinite(sample).all(axis=1)]
    centres = _unit(sample[np.sort(rng.choice(len(sample), min(len(sample), count), replace=False))])
    for _ in range(_TURNS):
        cell, _own = _nearest(sample, centres)
        order = np.argsort(cell, kind="stable")
        there, starts = np.unique(cell[order], return_index=True)
        centres[there] = _unit(np.add.reduceat(sample[order], starts, axis=0))
    return centres


def _nearest(points: Floats, centres: Floats) -> tuple[npt.NDArray[np.int32], Floats]:
    """Return each point's nearest centre, and its product with it; the first one if that is NaN."""
    cell, own = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    across = centres.T.copy()
    for start in range(0, len(points), _AT_ONCE):
        products = points[start : start + _AT_ONCE] @ across
        best = products.argmax(axis=1)
        cell[start : start + len(best)] = best
        own[start : start + len(best)] = products[np.arange(len(best)), best]
    return cell, own


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)
