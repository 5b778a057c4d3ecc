"""Checks of arguments that callers give as a number, a count or rows."""

from __future__ import annotations

from numbers import Real

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument

__all__ = ["is_count", "is_number", "row_numbers"]


def is_number(value: object) -> bool:
    """Return whether it is a real number, NaN and infinity included, but not True or False."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_count(value: object, least: int) -> bool:
    """Return whether it is a whole number, `least` or more."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= least


def row_numbers(rows: object, what: str, *, or_flags: bool) -> Array:
    """Convert a list, tuple, range or array of rows -> int64 (n,), or flags, bool (n,), unchanged if `or_flags`.

    what: the argument's name, which begins the error.

    Raises:
        InvalidArgument: it is something else.
    """
    try:
        found: Array = np.asarray(rows)
    except ValueError:  # lists of different lengths
        found = np.asarray(None)
    if found.shape == (0,) and found.dtype != bool:
        return np.empty(0, np.int64)  # NumPy makes an empty list an array of floats
    if found.ndim != 1 or found.dtype.kind not in ("iub" if or_flags else "iu"):
        shape = f" of {found.dtype} and shape {found.shape}" if isinstance(rows, np.ndarray) else f", {rows!r:.60}"
        raise InvalidArgument(f"{what} is {type(rows).__name__}{shape}; expected rows: a list of whole numbers")
    return found if found.dtype == bool else found.astype(np.int64)
