"""Checks of arguments that callers give as a number, a count, rows or a path."""

from __future__ import annotations

import os
from numbers import Real
from pathlib import Path
from typing import TypeAlias

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument

__all__ = ["PathLike", "as_path", "is_count", "is_number", "row_numbers"]

PathLike: TypeAlias = "str | os.PathLike[str]"


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


def as_path(given: PathLike, what: str) -> Path:
    """Convert a path that a caller gave, as text or as an object of `pathlib`.

    what: the argument's name, which begins the error.

    Raises:
        InvalidArgument: it is something else, or empty, or contains a zero byte.
    """
    if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
        raise InvalidArgument(f"{what} is {given!r:.60}; expected a path, as text or pathlib.Path")
    if "\0" in os.fsdecode(given):
        raise InvalidArgument(f"{what} is {os.fspath(given)!r:.60}; no path contains a zero byte")
    return Path(os.fsdecode(given))
