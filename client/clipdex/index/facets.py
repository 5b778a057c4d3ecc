"""Facets: how many pictures have each value of a column or of a metadata key.

Every statement here is this package's own; a metadata key is bound, never compiled. It runs on the connection of
conditions, behind its authorizer, and over the same view, so that the condition of a value finds what was counted.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import InvalidArgument
from clipdex.index.column_facts import DECLARED, Column, described_columns
from clipdex.index.reader import Index
from clipdex.index.value_sql import LONGEST_VALUE, Value, listed, literal, of_key
from clipdex.index.where import COLUMNS, Rows

__all__ = ["KEY_PREFIX", "Facets", "Unit", "ValueCounts"]

Unit = Literal["year", "month"]

KEY_PREFIX = "meta."  # before a metadata key that may be named like a column

# Columns with a value of its own for each picture, or of all metadata at once: to count them tells nothing.
_SINGULAR = frozenset(("row", "path", "id", "name", "mtime", "meta"))
_UNIT_LENGTH: dict[Unit, int] = {"year": 4, "month": 7}

_INFINITE = (math.inf, -math.inf)  # an old index may have them; JSON does not

_ROWS_AT_ONCE = 50_000
_MOST_COUNTED = 50_000  # pictures, of which each is read; of more, as many in even steps
_NAMED_AT_ONCE = 500  # rows
_MOST_VALUES = 200_000  # different ones
_MOST_NAMED = 20  # metadata keys, in an error
_KEPT = 6  # columns, each 12 bytes per row and its values


@dataclass(frozen=True)
class ValueCounts:
    """How many pictures have each value.

    values: (value, pictures, condition on such a picture), the most frequent first; times in their order, the
    latest first. distinct: number of values, of which `values` may be a part. missing: pictures without a value.
    others: pictures with other values, or one of more than 200 characters. A picture with a list counts for each
    of its values. sampled: None, or the number of pictures that were read of more than 50,000, from which all
    other numbers but `distinct`, which is theirs, are estimated.
    """

    values: list[tuple[Value, int, str]]
    distinct: int
    missing: int
    others: int
    sampled: int | None = None


@dataclass(frozen=True)
class _Coded:
    """Which rows have which values. rows, codes: (n,), a row with each code of a value. long: rows of others.

    sql: how a condition names it. kind: as of `Column`.
    """

    rows: Rows
    codes: npt.NDArray[np.int32]
    values: list[Value]
    in_lists: list[bool]
    long: Rows
    sql: str
    time: bool


class Facets:
    """Counts over one index, which a single thread uses. What was read is kept until the index changes."""

    def __init__(self, index: Index, check: Callable[[], None] = lambda: None) -> None:
        """check: called now and then; what it raises ends the counting."""
        self._index = index
        self._check = check
        self._of: tuple[object, int] | None = None
        self._coded: OrderedDict[tuple[str, Unit], _Coded] = OrderedDict()
        self._columns: tuple[list[Column], int] | None = None

    def counts(
        self,
        by: str,
        *,
        where: str | None = None,
        params: Mapping[str, Any] | None = None,
        unit: Unit = "month",
        limit: int = 50,
    ) -> ValueCounts:
        """Count the pictures by a column, or by a metadata key: `meta.KEY`, or KEY if no column has that name.

        Args:
            where, params: only pictures that meet a condition.
            unit: what times are counted by.
            limit: number of values.

        Raises:
            InvalidArgument: there is no such column, it has too many values, or the condition is invalid.
        """
        self._look()
        rows = len(self._index.vectors)
        alive = np.ones(rows, bool)
        alive[self._index.tombstones] = False
        if where is not None:
            met = np.zeros(rows, bool)
            met[self._index.where(where, params, self._check)] = True
            alive &= met
        sampled, share = None, 1.0
        if rows <= _MOST_COUNTED:
            coded = self._values(by, unit)
        else:
            every = np.flatnonzero(alive)
            some = every
            if len(every) > _MOST_COUNTED:
                some = every[np.linspace(0, len(every) - 1, _MOST_COUNTED).astype(np.int64)]
                sampled, share = len(some), len(every) / len(some)
                alive = np.zeros(rows, bool)
                alive[some] = True
            coded = self._read(by, unit, some)
        if not len(coded.rows) and not len(coded.long):
            self._require_name(by)
        chosen = alive[coded.rows]
        numbers = np.bincount(coded.codes[chosen], minlength=len(coded.values))
        there = np.zeros(rows, bool)
        there[coded.rows] = True
        there[coded.long] = True
        missing = int(np.count_nonzero(alive & ~there))
        found = np.flatnonzero(numbers)
        if coded.time:
            order = sorted(found.tolist(), key=lambda i: str(coded.values[i]), reverse=True)
        else:
            order = sorted(found.tolist(), key=lambda i: (-int(numbers[i]), str(coded.values[i])))
        shown = order[:limit]
        others = int(numbers[order[limit:]].sum()) + int(np.count_nonzero(alive[coded.long]))
        values = [(coded.values[i], round(share * int(numbers[i])), self._condition(coded, i)) for i in shown]
        return ValueCounts(values, len(found), round(share * missing), round(share * others), sampled)

    def columns(self) -> tuple[list[Column], int]:
        """Describe the columns and the metadata keys -> them, and the number of pictures sampled for values."""
        self._look()
        if self._columns is None:
            self._columns = described_columns(self._index, self._check)
        return self._columns

    def _require_name(self, by: str) -> None:
        """Check that a name which had no value is a column, `meta.KEY`, or a key of some picture of the index.

        Raises:
            InvalidArgument: it is none of these, and so probably misspelt.
        """
        if by in COLUMNS or by.startswith(KEY_PREFIX):
            return
        statement = "SELECT 1 FROM pictures WHERE meta -> :key IS NOT NULL LIMIT 1"
        if any(piece.selected(statement, {"key": by}, self._check) for _, piece in self._index.pieces()):
            return
        keys = [each.name for each in self.columns()[0] if each.of_metadata]
        known = [*(each for each in COLUMNS if each not in _SINGULAR), *sorted(keys)[:_MOST_NAMED]]
        raise InvalidArgument(
            f"there is no column {by!r:.80}, and no picture has metadata of that name; expected one of "
            f"{', '.join(known)}, or {KEY_PREFIX}KEY"
        )

    def _look(self) -> None:
        """Move to the latest commit, and forget what was read of another."""
        if not self._index.is_current():
            self._index.refresh()
        now = (self._index.generation, self._index.version)
        if self._of != now:
            self._of, self._columns = now, None
            self._coded.clear()

    def _values(self, by: str, unit: Unit) -> _Coded:
        key = (by, unit)
        if key in self._coded:
            self._coded.move_to_end(key)
        else:
            self._coded[key] = self._read(by, unit)
            while len(self._coded) > _KEPT:
                self._coded.popitem(last=False)
        return self._coded[key]

    def _read(self, by: str, unit: Unit, chosen: Rows | None = None) -> _Coded:
        """Read the values of all rows, or of chosen ones."""
        if by in _SINGULAR:
            raise InvalidArgument(
                f"{by} is another one for each picture; count by a column such as folder or width"
            )
        if by in COLUMNS:  # a name of our own
            sql, kind, sort, given = by, f"typeof({by})", DECLARED.get(by, ""), dict[str, Any]()
        else:
            name = by.removeprefix(KEY_PREFIX)
            sql, sort, given = of_key(name), "", {"key": name}
            kind = "json_type(meta -> :key)"
        expression = sql if by in COLUMNS else "meta ->> :key"
        if sort == "time":
            expression, sql = f"substr({by}, 1, {_UNIT_LENGTH[unit]})", by
        known: dict[tuple[type, Value, bool], int] = {}
        parts: list[Rows] = []
        codes: list[npt.NDArray[np.int32]] = []
        long: list[int] = []
        statement = (  # a column's name, or a bound key
            f"SELECT row, {expression}, {kind} FROM pictures WHERE {expression} IS NOT NULL AND "  # noqa: S608
        )
        for first, piece, which in self._parts(chosen):
            some_rows: list[int] = []
            some_codes: list[int] = []
            for row, value, of_kind in piece.selected(statement + which, given, self._check):
                is_list = of_kind == "array" or (sort == "list" and isinstance(value, str))
                for each in listed(value) if is_list else (value,):
                    if isinstance(each, str) and len(each) > LONGEST_VALUE:
                        long.append(first + row)
                        continue
                    if not isinstance(each, (str, int, float)) or each in _INFINITE:
                        continue
                    some_rows.append(first + row)
                    some_codes.append(known.setdefault((type(each), each, is_list), len(known)))
                if len(known) > _MOST_VALUES:
                    raise InvalidArgument(
                        f"{by} has more than {_MOST_VALUES:,} different values, too many to count; choose another"
                    )
            parts.append(np.array(some_rows, np.int64))
            codes.append(np.array(some_codes, np.int32))
        return _Coded(
            np.concatenate([np.empty(0, np.int64), *parts]),
            np.concatenate([np.empty(0, np.int32), *codes]),
            [value for _, value, _ in known],
            [in_list for _, _, in_list in known],
            np.array(sorted(set(long)), np.int64),
            sql,
            sort == "time",
        )

    def _parts(self, chosen: Rows | None) -> Iterator[tuple[int, Index, str]]:
        """Divide the rows -> (first row of a piece of the index, the piece, a condition on its own rows)."""
        for first, piece in self._index.pieces():
            count = len(piece.vectors)
            if chosen is None:
                for start in range(0, count, _ROWS_AT_ONCE):
                    yield first, piece, f"row >= {start:d} AND row < {min(start + _ROWS_AT_ONCE, count):d}"
                continue
            own = chosen[(chosen >= first) & (chosen < first + count)] - first
            for start in range(0, len(own), _NAMED_AT_ONCE):
                yield first, piece, f"row IN ({', '.join(map(str, own[start : start + _NAMED_AT_ONCE].tolist()))})"

    def _condition(self, coded: _Coded, at: int) -> str:
        value = coded.values[at]
        if coded.in_lists[at]:
            of = coded.sql.replace("meta ->> ", "meta, ")
            return f"has({of}, {literal(value)})"
        if coded.time:
            return f"substr({coded.sql}, 1, {len(str(value))}) = {literal(value)}"
        return f"{coded.sql} = {literal(value)}"
