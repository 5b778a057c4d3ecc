"""Cosines and unit vectors: the tolerances within which a norm counts as 1 and two vectors agree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.search.kernels import squared_norms

__all__ = ["OFF_WHEN_READ", "OFF_WHEN_WRITTEN", "ROUNDING", "UnsoundRow", "agree", "not_unit", "off_unit"]

# A model's vectors may be off by 1e-2; rounding them to float16 adds less than 1e-3. The rest is room for the
# rounding of a reader's sums.
OFF_WHEN_WRITTEN = 1.1e-2
OFF_WHEN_READ = 1.5e-2

_AT_ONCE = 1 << 22  # numbers


class UnsoundRow(Exception):
    """A row that a search would have ranked is not finite or not of norm 1. Never leaves this package."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} is not of norm 1")
        self.row = row


def off_unit(squares: Array, off: float = OFF_WHEN_READ) -> npt.NDArray[np.int64]:
    """Find where squared norms (n,) are not finite or belong to a norm not within `off` of 1."""
    # Written so that NaN counts as outside.
    within = (squares >= (1 - off) ** 2) & (squares <= (1 + off) ** 2)
    return np.flatnonzero(~within)


def not_unit(rows: Array, off: float = OFF_WHEN_READ) -> npt.NDArray[np.int64]:
    """Find the rows (n, D), of float16 or float32, that are not finite or whose norm is not within `off` of 1."""
    step = max(1, _AT_ONCE // max(1, rows.shape[1]))
    found = []
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), step):
            part = np.ascontiguousarray(rows[start : start + step])
            found.append(start + off_unit(squared_norms(part), off))
    return np.concatenate(found) if found else np.empty(0, np.int64)


# Allowance for rounding, so that a vector agrees with itself at a threshold of 1.
ROUNDING = 1e-6


def agree(cosines: npt.NDArray[np.float32], least: float) -> npt.NDArray[np.bool_]:
    """Compare cosines with a threshold: bool, of the same shape. NaN is always False."""
    return np.asarray(cosines >= np.float32(least - ROUNDING))
