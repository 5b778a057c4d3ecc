"""Coding rows as int8, with a proven bound on each row's error.

A row x is stored as x̂ = center + scale × (spread ∘ code), where center and spread are the same for all rows and
scale is the row's own. `residual` is an upper bound of ‖x − x̂‖, `length` one of ‖scale × code‖.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array

__all__ = ["BLOCK_ROWS", "WIDEST", "Basis", "CodeBlock", "Codes", "MemoryCodes", "basis_of", "norms", "quantize"]

# The dot product of two int8 vectors fits in int32: 131,072 × 127² < 2³¹.
WIDEST = 1 << 17

BLOCK_ROWS = 65_536

# A dimension that varies less than this share of the others is coded as if it varied this much: it costs nothing,
# and an outlier there does not make a row's code coarse.
_LEAST_SPREAD = 0.1

_AT_ONCE = 1 << 18  # numbers; the arithmetic is float64's, in the cache


@dataclass(frozen=True)
class Basis:
    """The center and spread that all rows of an index are coded with: float32 (D,), spread above 0."""

    center: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]

    @cached_property
    def wide(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Center and spread in float64."""
        return self.center.astype(np.float64), self.spread.astype(np.float64)

    @cached_property
    def center_norm(self) -> float:
        """The norm of the center, rounded up."""
        return float(norms(self.wide[0][None])[0])


@dataclass(frozen=True)
class CodeBlock:
    """The codes of consecutive rows: code int8 (n, D); scale, residual and length float32 (n,)."""

    code: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    residual: npt.NDArray[np.float32]
    length: npt.NDArray[np.float32]

    GROUP: ClassVar[int] = 2048

    @cached_property
    def typical(self) -> tuple[float, float]:
        """The medians of some residuals and lengths."""
        return float(np.median(self.residual[:512])), float(np.median(self.length[:512]))

    def uncode(self, rows: npt.NDArray[np.int64]) -> None:
        """Remove the codes of these rows: every search then reads the rows themselves."""
        self.code[rows], self.scale[rows], self.length[rows], self.residual[rows] = 0, 0, 0, np.inf

    @cached_property
    def _extremes(self) -> npt.NDArray[np.float64]:
        """For each group of rows, (2, groups): largest residual and length."""
        starts = np.arange(0, len(self.scale), self.GROUP)
        return np.array([np.maximum.reduceat(v, starts) for v in (self.residual, self.length)], np.float64)

    @cached_property
    def _most(self) -> tuple[float, float]:
        """The largest residual and length of all rows."""
        residual, length = np.maximum.reduce(self._extremes, axis=1).tolist()
        return residual, length

    def extremes(self, rows: slice | npt.NDArray[np.int64]) -> tuple[float, float]:
        """Bound the values of some rows -> (largest residual, largest length)."""
        if isinstance(rows, slice):
            if rows.stop - rows.start == len(self.scale):
                return self._most
            groups = slice(rows.start // self.GROUP, (rows.stop - 1) // self.GROUP + 1)
            residual, length = np.maximum.reduce(self._extremes[:, groups], axis=1).tolist()
            return residual, length
        return float(self.residual[rows].max()), float(self.length[rows].max())


class Codes(Protocol):
    """The codes of rows 0 to `rows`, in blocks of `block_rows`; the last block may be shorter."""

    @property
    def rows(self) -> int:
        """The number of rows that have codes."""

    @property
    def block_rows(self) -> int:
        """The rows of a block."""

    @property
    def basis(self) -> Basis:
        """The basis that the rows were coded with."""

    @property
    def stored(self) -> Array:
        """The bytes of the codes, for reading ahead."""

    @property
    def typical(self) -> tuple[float, float]:
        """A typical residual and length. Only speed depends on them."""

    def block(self, number: int) -> CodeBlock | None:
        """Return a block, or None if it is damaged."""


@dataclass(frozen=True)
class MemoryCodes:
    """Codes in memory, for arrays that are not an index."""

    basis: Basis
    blocks: Sequence[CodeBlock | None]
    rows: int
    block_rows: int

    @classmethod
    def of(cls, vectors: Array, block_rows: int = BLOCK_ROWS) -> MemoryCodes:
        """Code an array (N, D) of float16 or float32."""
        basis = basis_of(vectors)
        starts = range(0, len(vectors), block_rows)
        blocks = [quantize(vectors[start : start + block_rows], basis) for start in starts]
        return cls(basis, blocks, len(vectors), block_rows)

    @property
    def stored(self) -> Array:
        """Empty: nothing is read from a file."""
        return np.empty(0, np.uint8)

    @cached_property
    def typical(self) -> tuple[float, float]:
        """A typical residual and length."""
        block = next((block for block in self.blocks if block is not None), None)
        return (0.0, 0.0) if block is None else block.typical

    def block(self, number: int) -> CodeBlock | None:
        """Return a block, or None if it was given as None."""
        return self.blocks[number]


def basis_of(vectors: Array) -> Basis:
    """Choose a basis for rows (N, D), from at most 32,768 of them, spread over the array."""
    step = max(1, len(vectors) // 32)
    width = min(step, 1024)
    sample = np.concatenate([vectors[i : i + width] for i in range(0, max(1, len(vectors)), step)]).astype(
        np.float64
    )
    sample = sample[np.isfinite(sample).all(axis=1)]
    dim = vectors.shape[1]
    if len(sample) == 0:
        return Basis(np.zeros(dim, np.float32), np.ones(dim, np.float32))
    spread = sample.std(axis=0)
    usual = float(np.sqrt(np.mean(spread**2)))
    with np.errstate(over="ignore", under="ignore"):
        spread32 = np.maximum(spread, _LEAST_SPREAD * usual).astype(np.float32)
    if not (np.isfinite(spread32).all() and (spread32 > np.finfo(np.float32).tiny).all()):
        spread32 = np.ones(dim, np.float32)
    return Basis(sample.mean(axis=0).astype(np.float32), spread32)


def quantize(rows: Array, basis: Basis) -> CodeBlock:
    """Code rows (n, D) of float16 or float32; a row that has no useful code gets an infinite residual."""
    n, dim = rows.shape
    code = np.empty((n, dim), np.int8)
    scale, residual, length = (np.empty(n, np.float32) for _ in range(3))
    step = max(1, _AT_ONCE // dim)
    for start in range(0, n, step):
        part = slice(start, start + step)
        with np.errstate(all="ignore"):  # values that are not finite are handled below
            code[part], scale[part], residual[part], length[part] = _quantize(rows[part], basis)
    return CodeBlock(code, scale, residual, length)


def _quantize(rows: Array, basis: Basis) -> tuple[Array, Array, Array, Array]:
    x = rows.astype(np.float64)
    center, spread = basis.wide
    apart = x - center
    relative = apart / spread
    scale = (np.abs(relative).max(axis=1, initial=0) / 127).astype(np.float32)
    wide = scale.astype(np.float64)[:, None]
    code = np.clip(np.rint(np.where(wide > 0, relative / wide, 0)), -127, 127)
    left = apart - wide * (spread * code)
    # Each operation above is off by at most 2⁻⁵³ of its result; 2⁻⁴⁸ of all inputs covers them.
    size = norms(x) + float(np.linalg.norm(center)) + norms(left)
    residual = _upward(norms(left) + 2.0**-48 * size)
    length = _upward(scale * norms(code))
    useless = ~(np.isfinite(residual) & np.isfinite(length) & np.isfinite(scale))
    code[useless], scale[useless], length[useless], residual[useless] = 0, 0, 0, np.inf
    return code.astype(np.int8), scale, residual, length


def norms(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Compute the norm of each row (n, D), or of one (D,), rounded up."""
    if rows.ndim == 1:
        return np.array(math.sqrt(rows @ rows) * (1 + 1e-9))
    found: npt.NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows)) * (1 + 1e-9)
    return found


def _upward(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Round up to float32."""
    return np.nextafter(values.astype(np.float32), np.float32(np.inf))
