"""Comparing columns of numbers and times with one value, by SQLite's rules."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array

__all__ = ["SECOND", "compare", "second_text", "time_compared", "whole_compared"]

Flags = npt.NDArray[np.bool_]

SECOND = 10**9  # in ns
_EPOCH = datetime(1970, 1, 1)
_LAST_SECOND = (1 << 63) // SECOND + 1  # a time in ns has 64 bits

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "=": np.equal,
    "<>": np.not_equal,
}


def compare(values: Array, operator: str, value: Any) -> Flags:
    """Compare an array with a value, or another array, by one of < <= > >= = <>."""
    found: Flags = _OPERATORS[operator](values, value)
    return found


def whole_compared(values: Array, operator: str, value: float) -> Flags:
    """Compare whole numbers with a number as real numbers are compared: exactly."""
    if math.isinf(value) or value != math.floor(value):
        if operator in ("=", "<>"):
            return np.full(len(values), operator == "<>", np.bool_)
        if math.isinf(value):
            return np.full(len(values), (value > 0) == (operator in ("<", "<=")), np.bool_)
        # Between two whole numbers.
        operator = {"<": "<=", "<=": "<=", ">": ">", ">=": ">"}[operator]
    whole = math.floor(value)
    bounds = np.iinfo(values.dtype)
    if whole > bounds.max:
        return np.full(len(values), operator in ("<", "<=", "<>"), np.bool_)
    if whole < bounds.min:
        return np.full(len(values), operator in (">", ">=", "<>"), np.bool_)
    return compare(values, operator, values.dtype.type(whole))


class _Seconds(Sequence[bytes]):
    """Every second that a time in ns may be in, as SQLite's datetime() writes it, in order."""

    def __len__(self) -> int:
        return 2 * _LAST_SECOND + 1

    def __getitem__(self, at: Any) -> Any:
        return second_text(at - _LAST_SECOND).encode()


def second_text(second: int) -> str:
    """Write a time in seconds since 1970 as SQLite's datetime() does."""
    return (_EPOCH + timedelta(seconds=second)).isoformat(" ")


def time_compared(times_ns: Array, operator: str, text_value: str) -> Flags:
    """Compare times as texts, byte by byte: their order is that of the seconds."""
    text = text_value.encode()
    first = _least_ns(bisect_left(_Seconds(), text) - _LAST_SECOND)  # that is not before the text
    after = _least_ns(bisect_right(_Seconds(), text) - _LAST_SECOND)
    if operator in (">=", "<"):
        return whole_compared(times_ns, operator, first)
    if operator in (">", "<="):
        return whole_compared(times_ns, {">": ">=", "<=": "<"}[operator], after)
    same = whole_compared(times_ns, ">=", first) & whole_compared(times_ns, "<", after)
    return same if operator == "=" else ~same


def _least_ns(second: int) -> int:
    """Return the first time in ns that SQLite, which rounds towards zero, counts to a second."""
    return second * SECOND if second > 0 else (second - 1) * SECOND + 1
