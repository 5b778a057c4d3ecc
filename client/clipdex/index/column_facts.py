"""What the columns and metadata keys of an index hold: kinds, least and greatest values, frequent texts.

The statements run as those of facets do; of values, a sample is read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipdex.base.json_text import parsed_object
from clipdex.index.column_where import ranges_of_columns
from clipdex.index.picture_view import COLUMNS, EXIF_COLUMNS
from clipdex.index.reader import Index
from clipdex.index.value_sql import LONGEST_VALUE, Value, is_plain_key, listed, of_key

__all__ = ["DECLARED", "Column", "described_columns"]

# Columns whose kind their values do not show.
DECLARED = {"modified": "time", "taken": "time", "keywords": "list"}

_LIVE = "row NOT IN (SELECT row FROM main.rows WHERE deleted_at IS NOT NULL)"
_TIME = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?")

_SAMPLED = 2_000  # rows
_SAMPLED_AT_ONCE = 50
_SAMPLED_CHARACTERS = 16 << 20  # of metadata
_MOST_SEEN_KEYS, _MOST_KEYS, _MOST_FREQUENT = 1_000, 100, 20


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


def described_columns(index: Index, check: Callable[[], None]) -> tuple[list[Column], int]:
    """Describe the columns and the metadata keys -> them, and the number of pictures sampled for values.

    check: called now and then; what it raises ends it.
    """
    rows = _sampled_rows(index)
    return [*_own_columns(index, rows, check), *_keys(index, rows)], len(rows)


def _ranges(index: Index, names: Sequence[str], check: Callable[[], None]) -> list[tuple[Any, Any]]:
    """The least and the greatest value of each column, in SQLite's order; None for one without values."""
    found = []
    for first, piece in index.pieces():
        known = _known_ranges(piece, names)
        unknown = [name for name in names if name not in known]
        if unknown:
            asked = ", ".join(f"min({name}), max({name})" for name in unknown)
            statement = f"SELECT {asked} FROM pictures WHERE {_LIVE}"  # noqa: S608
            (record,) = piece.selected(statement, {}, check)
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


def _own_columns(index: Index, rows: Sequence[int], check: Callable[[], None]) -> list[Column]:
    ranged = [name for name in COLUMNS if name not in ("path", "id", "name", "folder", "meta")]
    ranges = dict(zip(ranged, _ranges(index, ranged, check), strict=True))
    kinds = {name: _kind_of(name, *ends) for name, ends in ranges.items()}
    texts = [name for name, kind in kinds.items() if kind in ("text", "list") and ranges[name][0] is not None]
    frequent: dict[str, Counter[Value]] = {name: Counter() for name in texts}
    for first, piece in index.pieces() if texts else ():
        own = [row - first for row in rows if 0 <= row - first < len(piece.vectors)]
        for start in range(0, len(own), _SAMPLED_AT_ONCE):
            which = ", ".join(str(int(row)) for row in own[start : start + _SAMPLED_AT_ONCE])
            statement = f"SELECT {', '.join(texts)} FROM pictures WHERE row IN ({which})"  # noqa: S608
            for record in piece.selected(statement, {}, check):
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
            there = any(piece.selected(one, {}, check) for _, piece in index.pieces())
            columns.append(Column(name, name, "text", there))
    return columns


def _keys(index: Index, rows: Sequence[int]) -> list[Column]:
    """Describe the metadata keys of a sample of rows."""
    numbers: Counter[str] = Counter()
    values: dict[str, Counter[Value]] = {}
    kinds: dict[str, set[str]] = {}
    ends: dict[str, tuple[Any, Any]] = {}
    read = 0
    for start in range(0, len(rows), _SAMPLED_AT_ONCE):
        for picture in index.pictures(rows[start : start + _SAMPLED_AT_ONCE]).values():
            read += len(picture.metadata or "")
            with suppress(ValueError):
                for key, value in parsed_object(picture.metadata or "{}").items():
                    if (
                        value is None
                        or not is_plain_key(key)
                        or (key not in numbers and len(numbers) >= _MOST_SEEN_KEYS)
                    ):
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
        columns.append(Column(key, of_key(key), kind, True, True, least, greatest, frequent))
    return columns


def _sampled_rows(index: Index) -> list[int]:
    count = len(index.vectors)
    rows = np.unique(np.linspace(0, max(0, count - 1), min(_SAMPLED, count)).astype(np.int64))
    return [int(row) for row in rows[~np.isin(rows, index.tombstones)]]


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
    if name in DECLARED or isinstance(least, str) or isinstance(greatest, str) or least is None:
        return DECLARED.get(name, "text")
    return "integer" if isinstance(least, int) and isinstance(greatest, int) else "real"


def _json_kind(value: object) -> str:
    if isinstance(value, str):
        return "time" if _TIME.fullmatch(value) else "text"
    if isinstance(value, bool):
        return "integer"
    return {int: "integer", float: "real", list: "list"}.get(type(value), "text")


def _count(counter: Counter[Value], value: object, *, is_list: bool) -> None:
    """Count a value, or those of a list, if it is short; of very many different ones only some."""
    values = value if isinstance(value, list) else listed(value) if is_list else [value]
    for each in values[:100]:
        if isinstance(each, (str, int, float)) and not (isinstance(each, str) and len(each) > LONGEST_VALUE):
            counter[each] += 1
