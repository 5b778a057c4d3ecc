"""Facets: how many pictures have each value of a column or of a metadata key, and what the columns hold.

Every statement here is this package's own; a metadata key is bound, never compiled. It runs on the connection of
conditions, behind its authorizer, and over the same view, so that the condition of a value finds what was counted.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import InvalidArgument
from clipdex.base.json_text import parse_json, parsed_object
from clipdex.index.column_where import ranges_of_columns
from clipdex.index.picture_view import EXIF_COLUMNS
from clipdex.index.reader import Index
from clipdex.index.where import COLUMNS, Rows

__all__ = ["KEY_PREFIX", "Column", "Facets", "Unit", "Value", "ValueCounts", "is_plain_key"]

Value: TypeAlias = "str | int | float"
Unit = Literal["year", "month"]

KEY_PREFIX = "meta."  # before a metadata key that may be named like a column

# Columns with a value of its own for each picture, or of all metadata at once: to count them tells nothing.
_SINGULAR = frozenset(("row", "path", "id", "name", "mtime", "meta"))
_LIVE = "row NOT IN (SELECT row FROM main.rows WHERE deleted_at IS NOT NULL)"
_TIME = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?")
_DECLARED = {"modified": "time", "taken": "time", "keywords": "list"}
_UNIT_LENGTH: dict[Unit, int] = {"year": 4, "month": 7}

_INFINITE = (math.inf, -math.inf)  # an old index may have them; JSON does not

_ROWS_AT_ONCE = 50_000
_MOST_COUNTED = 50_000  # pictures, of which each is read; of more, as many in even steps
_NAMED_AT_ONCE = 500  # rows
_MOST_VALUES = 200_000  # different ones
_LONGEST_VALUE = 200  # characters
_KEPT = 6  # columns, each 12 bytes per row and its values

_SAMPLED = 2_000  # rows
_SAMPLED_AT_ONCE = 50
_SAMPLED_CHARACTERS = 16 << 20  # of metadata
_MOST_SEEN_KEYS, _MOST_KEYS, _MOST_FREQUENT = 1_000, 100, 20


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
class Column:
    """A column that conditions may use. sql: the expression of it.

    kind: integer, real, text, time or list; time is text such as `2024-06-01 12:30:00`, list one of texts in JSON.
    there: whether any picture has a value. least, greatest: of all pictures; None for texts. values: the most
    frequent texts of a sample, with their numbers there.
    """

    name: str
    sql: str
    kind: str
    there: bool
    of_metadata: bool = False
    least: Value | None = None
    greatest: Value | None = None
    values: list[tuple[Value, int]] = field(default_factory=list)


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
        self._columns: list[Column] | None = None

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
        rows = self._sampled_rows()
        if self._columns is None:
            self._columns = [*self._own_columns(rows), *self._keys(rows)]
        return self._columns, len(rows)

    def _look(self) -> None:
        """Move to the latest commit, and forget what was read of another."""
        if not self._index.is_current():
            self._index.refresh()
        now = (self._index.generation, self._index.version)
        if self._of != now:
            self._of, self._columns = now, None
            self._coded.clear()

    # Counting

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
            sql, kind, sort, given = by, f"typeof({by})", _DECLARED.get(by, ""), dict[str, Any]()
        else:
            name = by.removeprefix(KEY_PREFIX)
            sql, sort, given = _of_key(name), "", {"key": name}
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
                for each in _listed(value) if is_list else (value,):
                    if isinstance(each, str) and len(each) > _LONGEST_VALUE:
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
            return f"has({of}, {_literal(value)})"
        if coded.time:
            return f"substr({coded.sql}, 1, {len(str(value))}) = {_literal(value)}"
        return f"{coded.sql} = {_literal(value)}"

    # Describing

    def _ranges(self, names: Sequence[str]) -> list[tuple[Any, Any]]:
        """The least and the greatest value of each column, in SQLite's order; None for one without values."""
        found = []
        for first, piece in self._index.pieces():
            known = _known_ranges(piece, names)
            unknown = [name for name in names if name not in known]
            if unknown:
                asked = ", ".join(f"min({name}), max({name})" for name in unknown)
                statement = f"SELECT {asked} FROM pictures WHERE {_LIVE}"  # noqa: S608
                (record,) = piece.selected(statement, {}, self._check)
                known |= {name: (record[2 * i], record[2 * i + 1]) for i, name in enumerate(unknown)}
            if known.get("row", (None,))[0] is not None:
                known["row"] = (known["row"][0] + first, known["row"][1] + first)
            found.append([end for name in names for end in known[name]])
        ranges = []
        for i in range(len(names)):
            least = [record[2 * i] for record in found if record[2 * i] is not None]
            greatest = [record[2 * i + 1] for record in found if record[2 * i + 1] is not None]
            ranges.append((min(least, key=_in_sql, default=None), max(greatest, key=_in_sql, default=None)))
        return ranges

    def _own_columns(self, rows: Sequence[int]) -> list[Column]:
        ranged = [name for name in COLUMNS if name not in ("path", "id", "name", "folder", "meta")]
        ranges = dict(zip(ranged, self._ranges(ranged), strict=True))
        kinds = {name: _kind_of(name, *ends) for name, ends in ranges.items()}
        texts = [name for name, kind in kinds.items() if kind in ("text", "list") and ranges[name][0] is not None]
        frequent: dict[str, Counter[Value]] = {name: Counter() for name in texts}
        for first, piece in self._index.pieces() if texts else ():
            own = [row - first for row in rows if 0 <= row - first < len(piece.vectors)]
            for start in range(0, len(own), _SAMPLED_AT_ONCE):
                which = ", ".join(str(int(row)) for row in own[start : start + _SAMPLED_AT_ONCE])
                statement = f"SELECT {', '.join(texts)} FROM pictures WHERE row IN ({which})"  # noqa: S608
                for record in piece.selected(statement, {}, self._check):
                    for name, value in zip(texts, record, strict=True):
                        _count(frequent[name], value, is_list=kinds[name] == "list")
        columns = []
        for name in COLUMNS:
            if name in ranges:
                least, greatest = ranges[name]
                ordered = kinds[name] not in ("text", "list")
                columns.append(
                    Column(
                        name,
                        name,
                        kinds[name],
                        least is not None,
                        least=least if ordered else None,
                        greatest=greatest if ordered else None,
                        values=frequent[name].most_common(_MOST_FREQUENT) if name in frequent else [],
                    )
                )
            else:
                one = f"SELECT 1 FROM pictures WHERE {name} IS NOT NULL AND {_LIVE} LIMIT 1"  # noqa: S608
                there = any(piece.selected(one, {}, self._check) for _, piece in self._index.pieces())
                columns.append(Column(name, name, "text", there))
        return columns

    def _keys(self, rows: Sequence[int]) -> list[Column]:
        """Describe the metadata keys of a sample of rows."""
        numbers: Counter[str] = Counter()
        values: dict[str, Counter[Value]] = {}
        kinds: dict[str, set[str]] = {}
        ends: dict[str, tuple[Any, Any]] = {}
        read = 0
        for start in range(0, len(rows), _SAMPLED_AT_ONCE):
            for picture in self._index.pictures(rows[start : start + _SAMPLED_AT_ONCE]).values():
                read += len(picture.metadata or "")
                with suppress(ValueError):
                    for key, value in parsed_object(picture.metadata or "{}").items():
                        if value is None or not is_plain_key(key) or (key not in numbers and len(numbers) > 1_000):
                            continue
                        numbers[key] += 1
                        kinds.setdefault(key, set()).add(_json_kind(value))
                        _count(values.setdefault(key, Counter()), value, is_list=isinstance(value, list))
                        if isinstance(value, (int, float)):
                            low, high = ends.get(key, (value, value))
                            ends[key] = (min(low, value), max(high, value))
            if read > _SAMPLED_CHARACTERS:
                break
        columns = []
        for key, _ in numbers.most_common(_MOST_KEYS):
            found = kinds[key]
            kind = found.pop() if len(found) == 1 else "real" if found <= {"integer", "real"} else "text"
            numeric = kind in ("integer", "real")
            least, greatest = ends[key] if numeric else (None, None)
            frequent = [] if numeric else values[key].most_common(_MOST_FREQUENT)
            columns.append(Column(key, _of_key(key), kind, True, True, least, greatest, frequent))
        return columns

    def _sampled_rows(self) -> list[int]:
        count = len(self._index.vectors)
        rows = np.unique(np.linspace(0, max(0, count - 1), min(_SAMPLED, count)).astype(np.int64))
        return [int(row) for row in rows[~np.isin(rows, self._index.tombstones)]]


def _known_ranges(piece: Index, names: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Find the ranges that can be told without reading every row of SQLite."""
    known: dict[str, tuple[Any, Any]] = {}
    if not piece.rows_now().exif_count():
        known |= dict.fromkeys(EXIF_COLUMNS, (None, None))
    rows, file = len(piece.vectors), piece.columns()
    if file is not None and file.rows == rows:
        chosen = np.ones(rows, np.bool_)
        chosen[piece.tombstones] = False
        live = np.flatnonzero(chosen)
        known["row"] = (int(live[0]), int(live[-1])) if len(live) else (None, None)
        ranges = ranges_of_columns(file, names, chosen)
        known |= {name: (None, None) if ends is None else ends for name, ends in ranges.items()}
    return known


def _in_sql(value: Any) -> tuple[int, Any]:
    """Order values as SQLite does: numbers before texts, before bytes."""
    return (0 if isinstance(value, (int, float)) else 1 if isinstance(value, str) else 2), value


def _kind_of(name: str, least: object, greatest: object) -> str:
    """Return the kind of a column of the view: as it is declared, and for numbers as its values are."""
    if name in _DECLARED or isinstance(least, str) or isinstance(greatest, str) or least is None:
        return _DECLARED.get(name, "text")
    return "integer" if isinstance(least, int) and isinstance(greatest, int) else "real"


def _json_kind(value: object) -> str:
    if isinstance(value, str):
        return "time" if _TIME.fullmatch(value) else "text"
    if isinstance(value, bool):
        return "integer"
    return {int: "integer", float: "real", list: "list"}.get(type(value), "text")


def _listed(text: Any) -> list[Any]:
    """Return the values in a JSON list, each once."""
    with suppress(ValueError, TypeError):
        found = parse_json(text)
        if isinstance(found, list):
            return list(dict.fromkeys(each for each in found if isinstance(each, (str, int, float))))
    return []


def _count(counter: Counter[Value], value: object, *, is_list: bool) -> None:
    """Count a value, or those of a list, if it is short; of very many different ones only some."""
    listed = value if isinstance(value, list) else _listed(value) if is_list else [value]
    for each in listed[:100]:
        if isinstance(each, (str, int, float)) and not (isinstance(each, str) and len(each) > _LONGEST_VALUE):
            counter[each] += 1


def is_plain_key(key: str) -> bool:
    """Return whether `->>` takes a key as it is: not as a path."""
    return 0 < len(key) <= _LONGEST_VALUE and not key.startswith(("$", "[")) and not set(key) & {'"', "\\", "\0"}


def _of_key(key: str) -> str:
    if not is_plain_key(key):
        raise InvalidArgument(
            f'the metadata key {key!r:.60} cannot be counted by; expected one without ", \\ and zero bytes that '
            "does not begin with $ or ["
        )
    return f"meta ->> {_literal(key)}"


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return json.dumps(int(value) if isinstance(value, bool) else value)
