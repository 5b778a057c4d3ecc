"""Comparing and computing with columns of numbers and times, by SQLite's rules."""

from __future__ import annotations

import math
import operator as operator_module
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array

__all__ = ["EXACT", "SECOND", "compare", "computed", "second_text", "time_compared", "whole_compared"]

Flags = npt.NDArray[np.bool_]

EXACT = 1 << 53  # of whole numbers, float64 has all up to this
SECOND = 10**9  # in ns
_EPOCH = datetime(1970, 1, 1)
_LAST_SECOND = (1 << 63) // SECOND + 1  # a time in ns has 64 bits

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator_module.add,
    "-": operator_module.sub,
    "*": operator_module.mul,
    "/": operator_module.truediv,
}

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


def computed(one: Array, operator: str, other: Array) -> tuple[Array, Flags | None] | None:
    """Compute one OPERATOR other, by one of + - * / -> the values, and which are NULL, or None for none.

    None if whole numbers might leave 64 bits, where SQLite goes on with real ones, or a real one is not finite.

    Args:
        one, other: of whole numbers or float64, (n,) or ().
    """
    nulls = None
    if operator == "/":
        zero = np.asarray(other == 0)
        nulls = zero if zero.any() else None
        other = np.where(zero, np.ones_like(other), other)
    if "f" in (one.dtype.kind, other.dtype.kind):
        with np.errstate(all="ignore"):
            real: Array = _ARITHMETIC[operator](one.astype(np.float64), other.astype(np.float64))
        return (real, nulls) if np.isfinite(real).all() else None
    ends = [_ends(one), _ends(other)]
    if operator == "/":
        if -(1 << 63) in (ends[0][0], ends[1][0]):
            return None
        wide, by = one.astype(np.int64), other.astype(np.int64)
        whole = np.abs(wide) // np.abs(by) * (np.sign(wide) * np.sign(by))  # towards zero
        return whole, nulls
    reached = [_ARITHMETIC[operator](left, right) for left in ends[0] for right in ends[1]]
    if not all(-(1 << 63) <= each < 1 << 63 for each in reached):
        return None
    return _ARITHMETIC[operator](one.astype(np.int64), other.astype(np.int64)), None


def _ends(values: Array) -> tuple[int, int]:
    """Return the least and the greatest of whole numbers; 0 and 0 of none."""
    return (int(values.min()), int(values.max())) if values.size else (0, 0)


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
