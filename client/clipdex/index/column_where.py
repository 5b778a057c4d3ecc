"""Evaluating plain conditions on the arrays of rows.columns, by SQLite's rules for NULL, numbers and texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument
from clipdex.index.near import Near
from clipdex.index.number_comparisons import (
    EXACT,
    SECOND,
    compare,
    computed,
    second_text,
    time_compared,
    whole_compared,
)
from clipdex.index.picture_view import holds
from clipdex.index.plain_condition import (
    Arithmetic,
    Both,
    Comparison,
    Condition,
    Constant,
    Either,
    Holds,
    Match,
    Member,
    Name,
    NearPlace,
    Not,
    Null,
    Term,
    plain_condition,
)
from clipdex.index.side.column_file import Column, ColumnFile
from clipdex.index.side.text_column import TextColumn
from clipdex.index.text_patterns import Chosen, chosen_flags, matching, named, ranges_of

__all__ = ["KEY_PREFIX", "TEXTS", "Sql", "ranges_of_columns", "rows_by_columns"]

Flags = npt.NDArray[np.bool_]
Sql = Callable[[str, Mapping[str, Any]], list[tuple[Any, ...]]]

KEY_PREFIX = "meta."  # of a column of the file that has the values of a metadata key

# A column of conditions: the column of the file that has its numbers, and what SQLite divides them by.
_NUMBERS = {
    "width": ("width", None),
    "height": ("height", None),
    "size": ("size", None),
    "mtime": ("mtime_ns", 1e9),
    "modified": ("mtime_ns", None),
    "latitude": ("latitude_e7", 1e7),
    "longitude": ("longitude_e7", 1e7),
    "rating": ("rating", None),
}

# Columns of texts, in the file and in conditions.
TEXTS = ("path", "folder", "taken", "taken_offset", "make", "camera", "lens", "keywords")

# A column of conditions that is what follows the last slash of one of the file.
_PARTS = {"name": "path"}

_FEW_RANGES = 4  # of texts, which rows are compared with one by one
_JUDGED_AT_ONCE = 200  # texts


class _Undecided(Exception):
    """Whether SQLite would give the same is not certain."""


@dataclass(frozen=True)
class _Truth:
    """Which rows meet a condition, and for which it is NULL: bool (rows,), or None for none."""

    true: Flags
    null: Flags | None = None


def rows_by_columns(
    file: ColumnFile, condition: str, values: Mapping[str, Any], below: int, sql: Sql
) -> npt.NDArray[np.int64] | None:
    """Find the rows below `below`, which the file has, that meet a condition; None where SQLite must say.

    Args:
        condition: as SQLite has compiled it.
        values: of its parameters.
        sql: has SQLite run a SELECT, with parameters, that reads no row.
    """
    there = file.names()
    columns = {name: Name(name) for name, (of_file, _) in _NUMBERS.items() if of_file in there}
    columns |= {name: Name(name) for name in there if name in TEXTS or name.startswith(KEY_PREFIX)}
    columns |= {name: Name(name) for name, of_file in _PARTS.items() if of_file in there}
    parsed = plain_condition(condition, values, columns, lambda number: sql(f"SELECT {number}", {})[0][0])
    if parsed is None:
        return None
    try:
        found = _Evaluation(file, below, sql).truth(parsed)
    except (_Undecided, RecursionError):
        return None
    return np.flatnonzero(found.true).astype(np.int64, copy=False)


def _column_of_view(file: ColumnFile, name: str, below: int) -> Column:
    """Read a column of conditions, `modified` as its time in ns. Raises LookupError if it is damaged."""
    of_file, divisor = _NUMBERS.get(name, (name, None))
    column = file.column(of_file)
    if column is None:
        raise LookupError(name)
    values = column.values[:below]
    if divisor is not None:
        values = values.astype(np.float64)
        values /= divisor
    return Column(values, None if column.nulls is None else column.nulls[:below])


def ranges_of_columns(
    file: ColumnFile, names: Sequence[str], chosen: Flags
) -> dict[str, tuple[int | float | str, int | float | str] | None]:
    """Find the least and the greatest value of chosen rows in those columns of conditions that the file has.

    chosen: bool (rows,), of all rows of the file. None for a column without a value.
    """
    there, found = file.names(), dict[str, Any]()
    for name in names:
        if name in TEXTS and name in there and (texts := file.texts(name)) is not None:
            with suppress(UnicodeDecodeError):
                found[name] = _ends_of_texts(texts, chosen)
            continue
        of_file, divisor = _NUMBERS.get(name, (name, None))
        column = file.column(of_file) if name in _NUMBERS and of_file in there else None
        if column is None:
            continue
        values = column.values[chosen if column.nulls is None else chosen & ~column.nulls]
        ends: list[Any] = [int(values.min()), int(values.max())] if len(values) else []
        if divisor is not None:
            ends = [float(end) / divisor for end in ends]
        elif name == "modified":
            ends = [second_text(abs(end) // SECOND * (1 if end >= 0 else -1)) for end in ends]
        found[name] = tuple(ends) or None
    return found


def _ends_of_texts(column: TextColumn, chosen: Flags) -> tuple[str, str] | None:
    codes = column.codes[chosen]
    if column.nulls:
        codes = codes[codes < len(column.texts)]
    ends = [int(codes.min()), int(codes.max())] if len(codes) else []
    return (column.texts[ends[0]].decode(), column.texts[ends[1]].decode()) if ends else None


class _Evaluation:
    def __init__(self, file: ColumnFile, below: int, sql: Sql) -> None:
        self._file, self._below, self._sql = file, below, sql
        self._read: dict[Name, Column] = {}

    def truth(self, condition: Condition) -> _Truth:
        if isinstance(condition, Not):
            inner = self.truth(condition.condition)
            return _Truth(~inner.true if inner.null is None else ~(inner.true | inner.null), inner.null)
        if isinstance(condition, Both):
            one, other = self.truth(condition.one), self.truth(condition.other)
            true = one.true & other.true
            if one.null is None and other.null is None:
                return _Truth(true)
            return _Truth(true, _not_false(one) & _not_false(other) & ~true)
        if isinstance(condition, Either):
            one, other = self.truth(condition.one), self.truth(condition.other)
            true = one.true | other.true
            if one.null is None and other.null is None:
                return _Truth(true)
            return _Truth(true, (_not_false(one) | _not_false(other)) & ~true)
        if isinstance(condition, Null):
            nulls = self._nulls(condition.column)
            return _Truth(self._all(False) if nulls is None else nulls)
        if isinstance(condition, Match):
            return self._match(condition)
        if isinstance(condition, NearPlace):
            return self._near(condition)
        if isinstance(condition, Holds):
            return self._holds(condition)
        if isinstance(condition, Member):
            return self._member(condition)
        return self._comparison(condition)

    def _match(self, condition: Match) -> _Truth:
        column, kind, pattern = self._texts(condition.column), condition.kind, condition.pattern
        if pattern is None:
            return _Truth(self._all(False), self._all(True))
        if not isinstance(pattern, str):
            raise _Undecided
        # Some builds of SQLite ignore the case of all letters, or of none.
        if kind == "LIKE" and self._sql("SELECT 'a' LIKE 'A', '\u00e4' LIKE '\u00c4'", {}) != [(1, 0)]:
            raise _Undecided
        chosen = matching(
            column.texts,
            kind,
            pattern,
            lambda texts: self._judged(kind, pattern, texts),
            names=condition.column.name in _PARTS,
        )
        if chosen is None:
            raise _Undecided
        return self._of_texts(column, chosen)

    def _judged(self, kind: str, pattern: str, texts: Sequence[bytes]) -> list[bool]:
        found: list[bool] = []
        for start in range(0, len(texts), _JUDGED_AT_ONCE):
            values: dict[str, Any] = {f"v{i}": v for i, v in enumerate(texts[start : start + _JUDGED_AT_ONCE])}
            asked = ", ".join(f"CAST(:{name} AS TEXT) {kind} :pattern" for name in values)
            found += map(bool, self._sql(f"SELECT {asked}", values | {"pattern": pattern})[0])
        return found

    def _near(self, condition: NearPlace) -> _Truth:
        latitude, longitude = self._column(condition.latitude), self._column(condition.longitude)
        if None in condition.given:
            return _Truth(self._all(False), self._all(True))
        try:
            true = Near().of_all(latitude.values, longitude.values, *condition.given)
        except InvalidArgument:  # SQLite says so, if it comes to that
            raise _Undecided from None
        return _without(true, _either(latitude.nulls, longitude.nulls))

    def _holds(self, condition: Holds) -> _Truth:
        column, value = self._texts(condition.column), condition.value
        flags = np.zeros(len(column.texts), np.bool_)
        for i, text in enumerate(column.texts):
            try:
                flags[i] = holds(text.decode(), value)
            except UnicodeDecodeError:
                raise _Undecided from None
        return _Truth(self._of_texts(column, Chosen([], flags)).true)

    def _texts(self, name: Name) -> TextColumn:
        found = self._file.texts(_of_file(name))
        if found is None:
            raise _Undecided
        return found

    def _of_texts(self, column: TextColumn, chosen: Chosen) -> _Truth:
        codes, count = column.codes[: self._below], len(column.texts)
        ranges = [(start, end) for start, end in chosen.ranges if start < end]
        if chosen.flags is None and len(ranges) <= _FEW_RANGES:
            true = self._all(False)
            for start, end in ranges:
                within = codes < end
                if start:
                    within &= codes >= start
                true |= within
        else:
            true = np.append(chosen_flags(chosen, count), False)[codes]
        return _Truth(true, codes == count if column.nulls else None)

    def _nulls(self, name: Name) -> Flags | None:
        if not self._is_text(name):
            return self._column(name).nulls
        column = self._texts(name)
        return column.codes[: self._below] == len(column.texts) if column.nulls else None

    def _is_text(self, name: Name) -> bool:
        return self._file.is_text(_of_file(name))

    def _operand(self, term: Term) -> Column | None:
        found = self._computed(term)
        is_key = isinstance(term, Name) and term.name.startswith(KEY_PREFIX)
        # Whole numbers among the real ones of a key are float64 here, and whole numbers to SQLite.
        if is_key and found is not None and found.values.dtype.kind == "f":
            raise _Undecided
        return found

    def _text_comparison(self, name: Name, operator: str, value: Constant) -> _Truth:
        column = self._texts(name)
        if value is None:
            return _Truth(self._all(False), self._all(True))
        if not isinstance(value, str):
            raise _Undecided
        if name.name in _PARTS:
            if operator not in ("=", "<>"):
                raise _Undecided
            flags = named(column.texts, value)
            return self._of_texts(column, Chosen([], flags if operator == "=" else ~flags))
        return self._of_texts(column, ranges_of(column.texts, operator, value))

    def _comparison(self, condition: Comparison) -> _Truth:
        column, value = condition.column, condition.value
        if isinstance(column, Name) and not isinstance(value, (Name, Arithmetic)):
            if self._is_text(column):
                return self._text_comparison(column, condition.operator, value)
            if value is None:
                return _Truth(self._all(False), self._all(True))
            found = self._column(column)
            return _without(self._compared(column, found.values, condition.operator, value), found.nulls)
        one, other = self._computed(column), self._computed(value)
        if one is None or other is None:
            return _Truth(self._all(False), self._all(True))
        first, second = one.values, other.values
        if first.dtype.kind != second.dtype.kind:
            for whole in (first, second):
                if whole.dtype.kind == "i" and whole.size and np.abs(whole.astype(np.float64)).max() > EXACT:
                    raise _Undecided
        true = np.broadcast_to(compare(first, condition.operator, second), self._below)
        return _without(true, _either(one.nulls, other.nulls))

    def _computed(self, term: Term) -> Column | None:
        """Compute a term of numbers: of all rows, or, without columns, (); None if it is NULL."""
        if term is None:
            return None
        if isinstance(term, Name):
            if term.name == "modified":
                raise _Undecided
            return self._column(term)
        if not isinstance(term, Arithmetic):
            if isinstance(term, str):
                raise _Undecided
            return Column(np.array(term, np.int64 if isinstance(term, int) else np.float64), None)
        one, other = self._operand(term.one), self._operand(term.other)
        if one is None or other is None:
            return None
        found = computed(one.values, term.operator, other.values)
        if found is None:
            raise _Undecided
        values, nulls = found
        if nulls is not None:
            nulls = np.broadcast_to(nulls, self._below)
        return Column(values, _either(_either(one.nulls, other.nulls), nulls))

    def _text_member(self, condition: Member) -> _Truth:
        column = self._texts(condition.column)
        flags = np.zeros(len(column.texts), np.bool_)
        for value in condition.values:
            if value is not None:
                if not isinstance(value, str):
                    raise _Undecided
                if condition.column.name in _PARTS:
                    flags |= named(column.texts, value)
                    continue
                for start, end in ranges_of(column.texts, "=", value).ranges:
                    flags[start:end] = True
        return self._of_texts(column, Chosen([], flags))

    def _member(self, condition: Member) -> _Truth:
        if self._is_text(condition.column):
            found = self._text_member(condition)
            return _Truth(found.true, ~found.true) if None in condition.values else found
        column = self._column(condition.column)
        true = self._all(False)
        for value in condition.values:
            if value is not None:
                true |= self._compared(condition.column, column.values, "=", value)
        found = _without(true, column.nulls)
        if None in condition.values:
            return _Truth(found.true, ~found.true)
        return found

    def _compared(self, name: Name, values: Array, operator: str, value: Constant) -> Flags:
        if name.name == "modified":
            if not isinstance(value, str):
                raise _Undecided
            return time_compared(values, operator, value)
        if isinstance(value, str) or value is None:
            raise _Undecided  # SQLite makes a number of it, or not
        if values.dtype.kind == "f":
            if isinstance(value, int) and not -EXACT <= value <= EXACT:
                raise _Undecided
            return compare(values, operator, np.float64(value))
        return whole_compared(values, operator, value)

    def _column(self, name: Name) -> Column:
        if name not in self._read:
            try:
                self._read[name] = _column_of_view(self._file, name.name, self._below)
            except LookupError:
                raise _Undecided from None
        return self._read[name]

    def _all(self, value: bool) -> Flags:
        return np.full(self._below, value, np.bool_)


def _of_file(name: Name) -> str:
    """Return which column of the file has a column of conditions."""
    return _PARTS.get(name.name) or _NUMBERS.get(name.name, (name.name, None))[0]


def _either(one: Flags | None, other: Flags | None) -> Flags | None:
    if one is None or other is None:
        return one if other is None else other
    return one | other


def _not_false(truth: _Truth) -> Flags:
    return truth.true if truth.null is None else truth.true | truth.null


def _without(true: Flags, nulls: Flags | None) -> _Truth:
    return _Truth(true) if nulls is None else _Truth(true & ~nulls, nulls)
