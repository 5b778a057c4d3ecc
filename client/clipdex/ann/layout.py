"""Checking the bytes of a FAISS index, before FAISS reads them, for counts and links that are out of range.

FAISS trusts the counts in a file: one that is too large makes it fill the memory, a link or an offset that
points out of the graph makes it read out of bounds. A checksum does not help, as whoever writes a file writes
that, too.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["require_ivf_bytes", "require_layout"]

_CENTROIDS = 256  # of a byte
_INNER_PRODUCT, _L2 = 0, 1
_BYTES_DIRECT = 5  # FAISS's number of the codes that are the vectors' own bytes


def require_layout(blob: npt.NDArray[np.uint8], kind: str, rows: int, dim: int) -> None:
    """Raise ValueError unless the bytes are an index as `build_ann` makes it, of `rows` rows of `dim` numbers.

    kind: "hnsw", without its vectors, or "ivf_pq".
    """
    parts = _Parts(blob)
    (_hnsw if kind == "hnsw" else _ivf_pq)(parts, rows, dim)
    if parts.left:
        raise ValueError(f"{parts.left:,} bytes too many")


def require_ivf_bytes(head: npt.NDArray[np.uint8], rows: int, dim: int, lists: int, list_bytes: int) -> None:
    """Raise ValueError unless these bytes begin an inverted file of `rows` vectors of `dim` bytes, compared by L2.

    head: all before the lists, which have `list_bytes` bytes.
    """
    parts = _Parts(head)
    _header(parts, rows, dim, b"IwSq", metric=_L2)
    _require(parts.numbers("<QQ")[0] == lists and lists > 0, "an impossible number of lists")
    _header(parts, lists, dim, b"IxF2", metric=_L2)
    _require(len(parts.vector("<f4")) == lists * dim, "centers are missing")
    (map_kind,) = parts.numbers("<B")
    _require(map_kind == 0 and len(parts.vector("<i8")) == 0, "has a map of rows")
    kind, _, _, found_dim, code_bytes = parts.numbers("<iifQQ")
    _require((kind, found_dim, code_bytes) == (_BYTES_DIRECT, dim, dim), "codes of another form")
    _require(len(parts.vector("<f4")) == 0, "codes of another form")
    _require(parts.numbers("<QB") == (dim, 0), "codes of another form")
    parts.name(b"ilar")
    _require(parts.numbers("<QQ") == (lists, dim), "lists of another form")
    parts.name(b"full")
    sizes = parts.vector("<u8")
    _require(len(sizes) == lists, "lists are missing")
    _require(bool((sizes <= rows).all()) and int(sizes.sum()) == rows, "more or fewer rows in its lists")
    _require(list_bytes == rows * (dim + 8), "its lists have another length")
    if parts.left:
        raise ValueError(f"{parts.left:,} bytes too many")


class _Parts:
    """Bytes that are read from front to back."""

    def __init__(self, blob: npt.NDArray[np.uint8]) -> None:
        self._blob, self._at = blob, 0

    @property
    def left(self) -> int:
        return len(self._blob) - self._at

    def skip(self, count: int) -> memoryview:
        _require(0 <= count <= self.left, "its end is missing")
        self._at += count
        return memoryview(self._blob.data)[self._at - count : self._at]

    def numbers(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.skip(struct.calcsize(layout)))

    def name(self, *expected: bytes) -> bytes:
        found = bytes(self.skip(4))
        _require(found in expected, f"{found!r} where {expected[0]!r} belongs")
        return found

    def vector(self, dtype: str) -> npt.NDArray[Any]:
        """Read a count and that many numbers."""
        (count,) = self.numbers("<Q")
        return np.frombuffer(self.skip(count * np.dtype(dtype).itemsize), dtype)


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(what)


def _header(parts: _Parts, rows: int, dim: int, *names: bytes, metric: int = _INNER_PRODUCT) -> None:
    """Check the start of an index: its kind, D, rows, two unused numbers, trained, the metric."""
    parts.name(*names)
    found_dim, found_rows, _, _, trained, found_metric = parts.numbers("<iqqqBi")
    _require((found_dim, found_rows) == (dim, rows), f"{found_rows} × {found_dim} instead of {rows} × {dim}")
    _require(trained == 1 and found_metric == metric, f"not of metric {metric}")


def _hnsw(parts: _Parts, rows: int, dim: int) -> None:
    _header(parts, rows, dim, b"IHNf", b"IHNs")
    parts.vector("<f8")
    starts = parts.vector("<i4").astype(np.int64)  # of the links of a level among a node's
    levels, offsets, links = parts.vector("<i4"), parts.vector("<u8"), parts.vector("<i4")
    entry, highest, *_ = parts.numbers("<5i")
    parts.name(b"null")  # the vectors are the index's rows
    fits = len(starts) > 1 and starts[0] == 0 and bool((np.diff(starts) >= 0).all())
    _require(fits and int(starts[-1]) < 1 << 31, "levels out of order")
    _require(len(levels) == rows and len(offsets) == rows + 1, "more or fewer nodes than rows")
    _require(bool((levels >= 1).all() and (levels < len(starts)).all()), "a node's level is out of range")
    ends = np.concatenate(([0], np.cumsum(starts[levels])))
    _require(np.array_equal(offsets, ends.astype(np.uint64)) and int(ends[-1]) == len(links), "wrong offsets")
    _require(bool((links >= -1).all() and (links < rows).all()), "a link to a row that does not exist")
    _require(0 <= entry < rows and 0 <= highest < levels[entry], "no valid entry point")
    for level in range(1, int(levels.max())):
        nodes = np.flatnonzero(levels > level)
        found = links[ends[nodes][:, None] + np.arange(starts[level], starts[level + 1])]
        _require(bool((levels[found[found >= 0]] > level).all()), "a link to a node that is not on its level")


def _ivf_pq(parts: _Parts, rows: int, dim: int) -> None:
    _header(parts, rows, dim, b"IwPQ")
    lists, _ = parts.numbers("<QQ")
    _require(0 < lists <= rows, "an impossible number of lists")
    _header(parts, lists, dim, b"IxFI")
    _require(len(parts.vector("<f4")) == lists * dim, "centers are missing")
    (map_kind,) = parts.numbers("<B")
    _require(map_kind == 0 and len(parts.vector("<i8")) == 0, "has a map of rows")
    _, code_bytes, found_dim, codes, bits = parts.numbers("<BQQQQ")
    _require((code_bytes, found_dim, bits) == (codes, dim, 8), "codes of another form")
    _require(codes > 0 and dim % codes == 0, "codes of another form")
    _require(len(parts.vector("<f4")) == _CENTROIDS * dim, "centers of codes are missing")
    parts.name(b"ilar")
    _require(parts.numbers("<QQ") == (lists, code_bytes), "lists of another form")
    if parts.name(b"full", b"sprs") == b"full":
        sizes = parts.vector("<u8")
        _require(len(sizes) == lists, "lists are missing")
    else:
        pairs = parts.vector("<u8").reshape(-1, 2)
        _require(bool((pairs[:, 0] < lists).all()), "a list that does not exist")
        sizes = pairs[:, 1]
    _require(bool((sizes <= rows).all()) and int(sizes.sum()) == rows, "more or fewer rows in its lists")
    parts.skip(rows * (code_bytes + 8))
