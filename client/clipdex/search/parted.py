"""The vectors of several parts, read as one array of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array

__all__ = ["PartedVectors"]


class PartedVectors:
    """Arrays (n, D) one after the other, indexed by row as one array (N, D); what is read is not written through.

    Slices and arrays of rows give ordinary arrays: a view within one part, else a copy. `numpy.asarray` reads all.
    """

    ndim = 2

    def __init__(self, arrays: Sequence[Array], dim: int, dtype: np.dtype[Any] | None = None) -> None:
        """dtype: that of the arrays, which must be given if there are none.

        arrays: the parts' rows. firsts: the first row of each part, and at last the number of all.
        """
        self.arrays = list(arrays)
        self.firsts = np.cumsum([0, *map(len, self.arrays)])
        self.shape = (int(self.firsts[-1]), dim)
        self.dtype = self.arrays[0].dtype if dtype is None else dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def itemsize(self) -> int:
        """Bytes per number."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.shape[0] * self.shape[1] * self.itemsize

    def __repr__(self) -> str:
        return f"<{len(self.arrays)} parts, {self.shape} of {self.dtype}>"

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        found: Array = self[:]
        return found if dtype is None else found.astype(dtype, copy=False)

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, tuple):
            first, *rest = which
            found = self[first]
            return found[tuple(rest)] if np.ndim(found) == 1 else found[(slice(None), *rest)]
        if isinstance(which, slice):
            start, stop, step = which.indices(len(self))
            return self._span(start, stop) if step == 1 else self._gathered(np.arange(start, stop, step))
        if isinstance(which, (int, np.integer)):
            return self._gathered(np.array([which]))[0]
        rows = np.asarray(which)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"flags of shape {rows.shape} for {len(self)} rows")
            rows = np.flatnonzero(rows)
        return self._gathered(rows.astype(np.int64) if rows.size == 0 else rows)

    def _span(self, start: int, stop: int) -> Array:
        spans = [
            array[max(0, start - first) : max(0, stop - first)]
            for array, first in zip(self.arrays, self.firsts.tolist(), strict=False)
            if start < first + len(array) and first < stop
        ]
        if len(spans) == 1:
            return spans[0]
        return np.concatenate([np.empty((0, self.shape[1]), self.dtype), *spans])

    def _gathered(self, rows: npt.NDArray[Any]) -> Array:
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"a row is not one of {len(self)}")
        rows = np.where(rows < 0, rows + len(self), rows)
        found = np.empty((*rows.shape, self.shape[1]), self.dtype)
        parts = np.searchsorted(self.firsts, rows, side="right") - 1
        for part in np.unique(parts).tolist():
            there = parts == part
            found[there] = self.arrays[part][rows[there] - self.firsts[part]]
        return found
