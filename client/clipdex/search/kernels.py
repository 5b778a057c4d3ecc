"""Dot products of blocks of rows with queries: NumKong's kernels if it is installed, else NumPy's BLAS.

docs/search-engine.md says why these were chosen.
"""

from __future__ import annotations

import logging
import threading
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array

__all__ = ["FloatDots", "Int8Dots", "as_float32", "rounded", "scratch", "squared_norms", "wide_dots"]

_log = logging.getLogger("clipdex.search")

# From this many queries on, one matrix product is cheaper than a product for each query.
_PACK_FROM = 2
_BLAS_FROM = 4

# A matrix product of int8 is fastest with this many queries, which stay in the first-level cache.
_QUERIES_AT_ONCE = 64

# A float32 sum of this many products of two int8 is exact in any order: 1024 × 127² < 2²⁴.
_EXACT_COLUMNS = 1024

# Matrix products with other numbers of queries than a multiple of this take a slow path at the edge.
_TILE = 4

# BLAS works on a block of float32 that fits in a core's second-level cache.
_CONVERTED_BYTES = 1 << 20

_LARGEST_HALF = 65504
_HALF = 2.0**-24  # half a unit in the last place of 1.0 in float32
_HALF_OF_DOUBLE = 2.0**-53


@cache
def _numkong() -> ModuleType | None:
    """NumKong, if it is installed and as accurate as the error bounds assume; else None."""
    try:
        import numkong

        kept = _keeps_its_word(numkong)
    except ModuleNotFoundError as exc:
        if exc.name != "numkong":
            _log.warning("numkong is not used, but NumPy instead: numkong needs the package %s", exc.name)
        return None
    except Exception as exc:  # another version, or one that this processor cannot run: NumPy does the same
        _log.warning("numkong is not used, but NumPy instead: %s: %s", type(exc).__name__, exc)
        return None
    if not kept:
        _log.warning(
            "numkong %s is not used, but NumPy instead: its sums are less accurate than required",
            getattr(numkong, "__version__", ""),
        )
        return None
    library: ModuleType = numkong
    return library


def _keeps_its_word(numkong: Any) -> bool:
    """Test that int8 is summed in int32, float16 in float32, float32 in float64, with every call that is used.

    It sums int8 to a number that float32 has to round, products of float32 that float32 has to round; and in
    random order ones, and numbers so small that they are lost beside a one in a narrow accumulator.
    """
    long = np.full((2, 4099), 127, np.int8)
    rounded = np.empty(2, np.float32)
    numkong.dot(long, long[:1], out=rounded)
    if not (rounded == np.float32(4099 * 127**2)).all():  # 3 above a multiple of 4: truncated, it is another
        return False
    codes = np.full((2, 1024), -127, np.int8)
    sums = np.empty(2, np.int32)
    numkong.dot(codes, codes[:1], out=sums)
    packed = np.asarray(numkong.dots_packed(codes, numkong.dots_pack(codes[:1])))
    if not (sums == 1024 * 127**2).all() or not (packed == 1024 * 127**2).all():
        return False
    fine = np.full((2, 256), 1 + 2.0**-12, np.float32)  # the square needs 25 bits
    wide_sums = np.empty(2)
    for other in (fine[:1], fine):
        numkong.dot(fine, other, out=wide_sums)
        if not (wide_sums == 256 * (1 + 2.0**-11 + 2.0**-24)).all():  # few bits: exact in any order
            return False
    few = np.random.default_rng(0).permutation(256) < 128
    for dtype, wide, unit, small in (
        (np.float16, np.float32, _HALF, 2.0**-12),
        (np.float32, np.float64, _HALF_OF_DOUBLE, 2.0**-25),
    ):
        rows = np.repeat(np.where(few, 1, small).astype(dtype)[None], 2, axis=0)
        ones = np.ones((1, 256), dtype)
        found: list[Array] = [np.empty(2, wide), np.empty(2, wide)]
        numkong.dot(rows, ones, out=found[0])
        numkong.dot(rows, np.repeat(ones, 2, axis=0), out=found[1])  # row by row
        if dtype == np.float16:
            found.append(np.asarray(numkong.dots_packed(rows, numkong.dots_pack(ones, dtype="float16"))))
            converted = np.empty(rows.shape, np.float32)
            numkong.astype(rows, "float32", out=converted)
            if not (converted == rows).all():
                return False
        most = _gamma(256, unit) * np.sqrt(256 * 128.1)
        if any((abs(dots.astype(np.float64) - 128 * (1 + small)) > most).any() for dots in found):
            return False
    return True


def _gamma(count: int, unit: float) -> float:
    """Higham's bound for a sum of `count` products in any order, with room for the conversion of the result."""
    return 1.01 * (count + 4) * unit


_kept = threading.local()


def scratch(name: str, length: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Return this thread's scratch array (length,), reused at every call: new memory would cost page faults."""
    found: Array | None = getattr(_kept, name, None)
    if found is None or len(found) < length or found.dtype != dtype:
        found = np.empty(length, dtype)
        setattr(_kept, name, found)
    return found[:length]


class Int8Dots:
    """Dot products of int8 rows with int8 queries (Q, D).

    parallel: whether using it from several threads at once is faster; BLAS has its own threads.
    """

    def __init__(self, queries: npt.NDArray[np.int8], name: str = "dots") -> None:
        self._queries, self._name = np.ascontiguousarray(queries), name
        self._library = _numkong()
        self.parallel = self._library is not None
        self._packed: list[Any] = []
        if self._library is not None and len(queries) >= _PACK_FROM:
            whole = _padded(self._queries)
            for start in range(0, len(queries), _QUERIES_AT_ONCE):
                self._packed.append(self._library.dots_pack(whole[start : start + _QUERIES_AT_ONCE]))

    def parts(self, codes: npt.NDArray[np.int8]) -> list[tuple[int, Array]]:
        """Multiply codes (n, D) -> pieces (first query, dots (n, some queries)): int32, or float32 from NumPy.

        They may be overwritten by the same thread's next call, of this object or one of the same name.
        The integers are exact; float32 is too for D ≤ 1024, else summed in float64 and rounded once.
        """
        if self._library is None:
            return [(0, self._by_blas(codes, np.empty((len(codes), len(self._queries)), np.float32)))]
        if not self._packed:
            dots = scratch(self._name, len(codes), np.int32)
            self._library.dot(codes, self._queries, out=dots)
            return [(0, dots[:, None])]
        starts = range(0, len(self._queries), _QUERIES_AT_ONCE)
        pieces = [np.asarray(self._library.dots_packed(codes, packed)) for packed in self._packed]
        return [(i, piece[:, : len(self._queries) - i]) for i, piece in zip(starts, pieces, strict=True)]

    def single(self, codes: npt.NDArray[np.int8], dots: npt.NDArray[np.float32]) -> None:
        """Multiply codes (n, D) with the only query into float32 (n,): the integers, rounded once.

        NumKong writes float32 sooner than int32.
        """
        if self._library is None:
            self._by_blas(codes, dots[:, None])
        else:
            self._library.dot(codes, self._queries, out=dots)

    def _by_blas(self, codes: npt.NDArray[np.int8], dots: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        dim = codes.shape[1]
        step = max(1, _CONVERTED_BYTES // (4 * min(dim, _EXACT_COLUMNS)))
        queries = self._queries.astype(np.float32).T
        for start in range(0, len(codes), step):
            block = codes[start : start + step]
            if dim <= _EXACT_COLUMNS:
                np.matmul(block.astype(np.float32), queries, out=dots[start : start + step])
                continue
            total = np.zeros((len(block), len(self._queries)))
            for left in range(0, dim, _EXACT_COLUMNS):
                part = slice(left, left + _EXACT_COLUMNS)
                total += block[:, part].astype(np.float32) @ queries[part]
            dots[start : start + step] = total
        return dots


class FloatDots:
    """Dot products of float16 or float32 rows with queries (Q, D), and bounds of their errors.

    For a row x and query number q, |dot − x·query| ≤ error[q] × ‖x‖, unless something overflows: then the
    result is infinite or NaN.

    Args:
        queries: float64, each scaled so that its largest number is between 0.5 and 1, or all are 0.
        dtype: of the rows.
    """

    def __init__(self, queries: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> None:
        self._library = _numkong()
        count, dim = queries.shape
        few = count < _BLAS_FROM
        half = dtype.itemsize == 2
        used: Array
        if self._library is not None and (half or few):
            used = queries.astype(np.float16 if half else np.float32)
            unit = _HALF if half else _HALF_OF_DOUBLE
        else:
            self._library = None
            used = queries.astype(np.float32)
            unit = _HALF
        self._queries = np.ascontiguousarray(used)
        self._packed = (
            self._library.dots_pack(_padded(self._queries), dtype="float16")
            if self._library is not None and half and not few
            else None
        )
        self.parallel = self._library is not None
        gamma = _gamma(dim, unit)
        lengths = np.linalg.norm(used.astype(np.float64), axis=1)
        self.error = np.linalg.norm(queries - used, axis=1) * (1 + 1e-9) + gamma * lengths * (1 + 1e-9)

    def __call__(self, rows: Array) -> Array:
        """Multiply rows (n, D) -> dots (n, Q), float32 or float64."""
        if self._library is None:
            return self._by_blas(rows)
        if self._packed is not None:
            return np.asarray(self._library.dots_packed(rows, self._packed))[:, : len(self._queries)]
        kind = np.float32 if rows.dtype.itemsize == 2 else np.float64
        dots = np.empty((len(self._queries), len(rows)), kind)
        for query, out in zip(self._queries, dots, strict=True):
            self._library.dot(rows, query[None], out=out)
        return dots.T

    def _by_blas(self, rows: Array) -> npt.NDArray[np.float32]:
        step = max(64, _CONVERTED_BYTES // (4 * rows.shape[1])) if len(self._queries) < _BLAS_FROM else len(rows)
        dots = np.empty((len(rows), len(self._queries)), np.float32)
        for start in range(0, len(rows), step):
            block = as_float32(rows[start : start + step])
            np.matmul(block, self._queries.T, out=dots[start : start + step])
        return dots


def _padded(queries: Array) -> Array:
    """Add queries of zeros up to a whole number of tiles."""
    missing = -len(queries) % _TILE
    return np.concatenate([queries, np.zeros((missing, queries.shape[1]), queries.dtype)]) if missing else queries


def squared_norms(rows: Array) -> npt.NDArray[Any]:
    """Compute ‖x‖² of rows (n, D) of float16 or float32: (n,), in float32 or better, up to its rounding."""
    library = _numkong()
    if library is None:
        converted = as_float32(rows)
        norms: npt.NDArray[Any] = np.einsum("ij,ij->i", converted, converted)
        return norms
    norms = np.empty(len(rows), np.float32 if rows.dtype.itemsize == 2 else np.float64)
    if len(rows):
        library.dot(rows, rows, out=norms)
    return norms


def wide_dots(rows: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Multiply rows (n, D) with one other (1, D), or each with its own (n, D) -> (n,), summed in float64."""
    library = _numkong()
    if library is None:
        found: npt.NDArray[np.float64] = np.einsum("ij,ij->i", rows, others, dtype=np.float64)
        return found
    dots = np.empty(len(rows))
    if len(rows):
        library.dot(rows, others, out=dots)
    return dots


def as_float32(rows: Array) -> npt.NDArray[np.float32]:
    """Convert rows of float16 or float32 to float32, much faster than NumPy converts float16.

    Values that are not finite stay so, but infinity may become NaN.
    """
    if rows.dtype.itemsize != 2:
        return np.asarray(rows, dtype=np.float32)
    library = _numkong()
    rows = np.ascontiguousarray(rows)
    if library is not None and rows.size:
        converted = np.empty(rows.shape, np.float32)
        library.astype(rows, "float32", out=converted)
        return converted
    # Move sign, exponent and fraction to their places in float32, then correct the exponent's bias.
    bits = np.left_shift(rows.view(np.uint16), 13, dtype=np.uint32)
    sign = np.left_shift(np.bitwise_and(bits, 0x1000_0000), 3)
    np.bitwise_and(bits, 0x0FFF_E000, out=bits)
    np.bitwise_or(bits, sign, out=bits)
    converted = bits.view(np.float32)
    np.multiply(converted, np.float32(2.0**112), out=converted)
    if max(converted.max(initial=0), -converted.min(initial=0)) > _LARGEST_HALF:
        converted[abs(converted) > _LARGEST_HALF] = np.nan
    return converted


def rounded(rows: Array, dtype: np.dtype[Any]) -> Array:
    """Convert rows of floats to float16 or float32, to the very bits that NumPy makes of them; never warns.

    A NaN becomes a NaN, of other bits perhaps. benchmarks/half_bits.py compares all 2³² numbers.
    """
    narrowed = rows.dtype == np.float32 and dtype == np.float16
    library = _numkong() if narrowed and rows.size else None
    if library is not None and _rounds_like_numpy(library):
        halves = np.empty(rows.shape, np.float16)
        library.astype(np.ascontiguousarray(rows), "float16", out=halves)
        return halves
    with np.errstate(over="ignore", invalid="ignore"):
        return rows.astype(dtype)


@cache
def _rounds_like_numpy(library: ModuleType) -> bool:
    """Test a conversion to float16 where rounding turns: at each float16, half-way to the next, and just beside.

    A processor without the instruction has a kernel of its own, which no one has tried with every number.
    """
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves + np.append(halves[1:], np.float32(65536))) / 2  # above the largest begins infinity
    beside = np.concatenate([between.view(np.uint32) - 1, between.view(np.uint32) + 1]).view(np.float32)
    tried = np.concatenate([halves, between, beside, [np.float32(np.inf)]])
    tried = np.concatenate([tried, -tried])
    made = np.empty(tried.shape, np.float16)
    library.astype(tried, "float16", out=made)
    with np.errstate(over="ignore"):
        same = bool((made.view(np.uint16) == tried.astype(np.float16).view(np.uint16)).all())
    if not same:
        _log.warning("numkong does not round to float16 as NumPy does, which is used for that instead")
    return same
