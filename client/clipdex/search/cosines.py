"""Cosines and unit vectors: which norms pass for 1, and when two vectors agree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.search.kernels import squared_norms

__all__ = ["OFF_WHEN_READ", "OFF_WHEN_WRITTEN", "UnsoundRow", "agree", "not_unit", "off_unit"]

# A model's vectors may be off by 1e-2; rounding them to float16 adds less than 1e-3. The rest is the rounding of
# the sums of those that read.
OFF_WHEN_WRITTEN = 1.1e-2
OFF_WHEN_READ = 1.5e-2

_AT_ONCE = 1 << 22  # numbers


class UnsoundRow(Exception):
    """A row that a search would have ranked is not finite or not of norm 1. Never leaves this package."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row} is not of norm 1")
        self.row = row


def off_unit(squares: Array, off: float = OFF_WHEN_READ) -> npt.NDArray[np.int64]:
    """Where ‖x‖² (n,) is not that of a norm within `off` of 1, or not finite."""
    # Written so that NaN is not within.
    within = (squares >= (1 - off) ** 2) & (squares <= (1 + off) ** 2)
    return np.flatnonzero(~within)


def not_unit(rows: Array, off: float = OFF_WHEN_READ) -> npt.NDArray[np.int64]:
    """Which of the rows (n, D), of float16 or float32, are not finite, or whose norm is not within `off` of 1."""
    step = max(1, _AT_ONCE // max(1, rows.shape[1]))
    found = []
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), step):
            part = np.ascontiguousarray(rows[start : start + step])
            found.append(start + off_unit(squared_norms(part), off))
    return np.concatenate(found) if found else np.empty(0, np.int64)


# The last bits are rounding: a vector agrees with itself also where 1 is asked for.
_ROUNDING = 1e-6


def agree(cosines: npt.NDArray[np.float32], least: float) -> npt.NDArray[np.bool_]:
    """Which cosines are at least so large: bool, of the same shape. NaN never is."""
    return np.asarray(cosines >= np.float32(least - _ROUNDING))
