"""Selecting the rows that a search may return: filters and tombstones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipdex.base.arguments import row_numbers
from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument
from clipdex.search.found import Found

__all__ = ["Selection", "absent", "flags_of"]

# A selection that keeps a smaller share than this is gathered; otherwise all rows are scanned.
_GATHER_BELOW = 0.25

_AT_ONCE = 1 << 16

_NO_ROWS: npt.NDArray[np.int64] = np.empty(0, np.int64)


@dataclass(frozen=True)
class Selection:
    """`count` rows of `total`: `chosen`, or if that is None, all except `dropped`. Both int64, ascending."""

    total: int
    count: int
    chosen: npt.NDArray[np.int64] | None
    dropped: npt.NDArray[np.int64]

    @classmethod
    def of(cls, total: int, allowed: Array | None, dead: npt.NDArray[np.int64] | None) -> Selection:
        """Select the allowed rows, given as flags (N,) or row numbers, without the dead ones.

        Raises:
            InvalidArgument: there are more or fewer flags than rows, or a row does not exist.
        """
        dead = _NO_ROWS if dead is None else np.asarray(dead, np.int64)
        if allowed is None and len(dead) <= (1 - _GATHER_BELOW) * total:
            return cls(total, total - len(dead), None, dead)
        flags = flags_of(total, allowed)
        flags[dead] = False
        count = int(np.count_nonzero(flags))
        if count >= _GATHER_BELOW * total:
            return cls(total, count, None, np.flatnonzero(~flags))
        return cls(total, count, np.flatnonzero(flags), np.empty(0, np.int64))

    def keep(self, found: Found) -> Found:
        """Leave out the pairs of dropped rows."""
        return found if len(self.dropped) == 0 else found.where(absent(found.row, self.dropped))

    def among(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Leave out the dropped rows. With a `chosen` selection, the rows must already be from it."""
        return rows[absent(rows, self.dropped)]

    def pieces(self) -> Iterator[npt.NDArray[np.int64]]:
        """Iterate over the selected rows, in order, in pieces."""
        if self.chosen is not None:
            yield self.chosen
            return
        for start in range(0, self.total, _AT_ONCE):
            rows = np.arange(start, min(self.total, start + _AT_ONCE))
            low, high = np.searchsorted(self.dropped, (start, start + len(rows)))
            yield np.delete(rows, self.dropped[low:high] - start)


def flags_of(total: int, allowed: Array | None) -> npt.NDArray[np.bool_]:
    """Turn allowed rows, given as flags (N,) or row numbers, into a new array of flags. Raises InvalidArgument."""
    if allowed is None:
        return np.ones(total, bool)
    allowed = row_numbers(allowed, "the filter", or_flags=True)
    if allowed.dtype == bool:
        if allowed.shape != (total,):
            raise InvalidArgument(
                f"the filter has the shape {allowed.shape}; expected one flag for each of {total} rows"
            )
        return allowed.copy()
    if len(allowed) and not 0 <= int(allowed.min()) <= int(allowed.max()) < total:
        raise InvalidArgument(f"the filter has a row that does not exist; expected 0 to {total - 1}")
    flags = np.zeros(total, bool)
    flags[allowed.astype(np.int64)] = True
    return flags


def absent(numbers: npt.NDArray[np.int64], left_out: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Flag the numbers (n,) that are not among those left out (m,), ascending.

    A binary search for each; np.isin, for a few left out, compares all with each of them.
    """
    if len(left_out) == 0:
        return np.ones(len(numbers), bool)
    at = np.searchsorted(left_out, numbers)
    at[at == len(left_out)] = 0
    present: npt.NDArray[np.bool_] = left_out[at] == numbers
    return ~present
