"""Which pairs of unit vectors may be close: bounds of their cosines from a few numbers of each.

A vector x is projected on some directions, those in which the vectors differ most: z, and ρ ≥ ‖x − Bz‖, the length
of what is left. Then x·y ≤ z·z' + ρρ', up to the roundings, which `slack` covers (docs/duplicates.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Projection", "projection_of"]

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_SAMPLE = 4096  # vectors by which the directions and their number are chosen
_ASKED = 512  # of these, how many are compared with all
_AT_ONCE = 16_384
_FEWEST = 16
_UNIT = 2.0**-24  # half a unit in the last place of 1.0 in float32

# What a comparison costs beside its products, and reading a vector by its row: in products of float32.
_COMPARING = 40
_READING = 4096


@dataclass(frozen=True)
class Projection:
    """Bounds of the cosines of n vectors, in another order.

    order: int64 (n,), the vectors' positions, ascending by the first number of their points.
    points: float32 (n, d + 1), z and ρ; two vectors' cosine, computed in float32, is at most the product of their
    points plus `slack`, which covers the rounding of both.
    """

    order: Rows
    points: Floats
    slack: float

    def reach(self, first: int, least: float) -> int:
        """Return the end of the points whose product with the one at `first`, or one before, may reach `least`."""
        # A product is half of: the squared norms, each less than 1 + 4 × slack, less the squared distance.
        apart = np.sqrt(max(0.0, 2 * (1 + 4 * self.slack - least))) * (1 + 1e-6)
        most = np.nextafter(np.float32(self.points[first, 0] + apart), np.float32(np.inf))
        return int(np.searchsorted(self.points[:, 0], most, "right"))


def projection_of(count: int, read: Callable[[Rows], Floats], least: float, block: int) -> Projection | None:
    """Choose directions and project on them; None if comparing the vectors themselves costs less.

    Args:
        count: of vectors.
        read: gives vectors by their positions: float32 (m, D) of norm 1, or 0.
        least: the cosine that a pair must have.
        block: vectors are compared in blocks of so many.
    """
    sample = read(np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64)))
    sample = sample[np.isfinite(sample).all(axis=1)]
    dim = sample.shape[1]
    if dim < 2 * _FEWEST or len(sample) < 2:
        return None
    wide = sample.astype(np.float64)
    apart = wide - wide.mean(axis=0)
    directions = np.linalg.eigh(apart.T @ apart)[1][:, ::-1].astype(np.float32)
    best, cheapest = 0, float(dim + _COMPARING)
    width = _FEWEST
    while width < dim:
        cost = _cost(sample, directions[:, :width], least, block)
        if cost < cheapest:
            best, cheapest = width, cost
        width *= 2
    return None if best == 0 else _projected(count, read, np.ascontiguousarray(directions[:, :best]))


def _cost(sample: Floats, basis: Floats, least: float, block: int) -> float:
    """Estimate what a pair costs, in products, if it is first compared by its projection."""
    points, slack = _points(sample, basis), _slack(basis)
    step = max(1, len(sample) // _ASKED)
    near = points[::step] @ points.T >= least - slack
    pairs = max(0, int(np.count_nonzero(near)) - len(near))  # each is near itself
    share = pairs / near.size
    met = min(float(block), share * block * block)  # vectors of a block that are in a pair to be looked at
    return basis.shape[1] + 1 + _COMPARING + (2 * met * _READING + met * met * len(basis)) / block**2


def _projected(count: int, read: Callable[[Rows], Floats], basis: Floats) -> Projection:
    points = np.empty((count, basis.shape[1] + 1), np.float32)
    for start in range(0, count, _AT_ONCE):
        some = np.arange(start, min(count, start + _AT_ONCE))
        points[some] = _points(read(some), basis)
    order = np.argsort(points[:, 0], kind="stable")
    return Projection(order, points[order], _slack(basis))


def _points(unit: Floats, basis: Floats) -> Floats:
    """Project vectors (n, D) -> z and ρ, float32 (n, d + 1)."""
    z = unit @ basis
    squares = np.einsum("ij,ij->i", z.astype(np.float64), z)
    # ‖x − Bz‖² = ‖x‖² − 2 x·Bz + ‖Bz‖², where x·Bz is z·z but for the error of z, and ‖x‖ is 1 but for rounding.
    skew, error = _errors(basis)
    left = 1 - squares + 4 * (len(basis) + 8) * _UNIT + 2 * error + skew
    rho = np.sqrt(np.maximum(left, 0)) * (1 + 1e-6)
    return np.concatenate([z, rho[:, None].astype(np.float32)], axis=1)


def _errors(basis: Floats) -> tuple[float, float]:
    """Bound ‖BᵀB − 1‖, and the error of z by its rounding: n products in any order are off by n units (Higham)."""
    wide = basis.astype(np.float64)
    skew = float(np.linalg.norm(wide.T @ wide - np.eye(wide.shape[1])))
    return 1.01 * skew, 1.01 * (len(basis) + 2) * _UNIT * float(np.sqrt(basis.shape[1]))


def _slack(basis: Floats) -> float:
    """Bound what roundings add: to z·z' + ρρ', to the product of two points, and to that of two vectors."""
    skew, error = _errors(basis)
    dim, width = basis.shape
    # x·y = Bz·Bz' + Bz·r' + r·Bz' + r·r'; the first is z·z' but for the skew, the next two are 0 but for both.
    return 1.05 * (3 * skew + 2 * error + (dim + width + 16) * _UNIT)
