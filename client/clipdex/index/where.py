"""Filters: finding the rows that meet a condition in SQL, evaluated by SQLite.

The condition is the only user input that is compiled; values are bound. It is put into a WHERE over a view, on a
separate read-only connection behind a guard (condition_guard.py). So whatever the condition says, it filters or is
refused.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipdex.base.errors import InvalidArgument
from clipdex.base.spelling import composed
from clipdex.index.column_where import rows_by_columns
from clipdex.index.condition_guard import LONGEST, Guard, close_in
from clipdex.index.picture_view import (
    COLUMNS,
    QUOTED,
    create_functions,
    create_view,
    exif_is_there,
    of_the_row,
)
from clipdex.index.schema import connect, require_still, unreadable, was_refused
from clipdex.index.side.column_file import ColumnFile

__all__ = ["COLUMNS", "FILTER_TIMEOUT_S", "Rows", "Where", "columns_read"]

Rows = npt.NDArray[np.int64]

FILTER_TIMEOUT_S = 60.0
_KEPT = 4  # results cached per snapshot; each takes 8 bytes per row

# Even without this check a subquery could read only the view, but with tombstones, and again for each row.
_SUBQUERY = re.compile(r"\b(select|values)\b", re.IGNORECASE)

# A text that is an expression both between CASE and THEN and between parentheses is a single expression: text that
# closes the parenthesis fails in the first, text that ends the CASE in the second. The line breaks end comments.
_IN_CASE = "EXPLAIN SELECT CASE WHEN\n{}\nTHEN 1 END FROM pictures"
_IN_PARENTHESES = "SELECT row FROM pictures WHERE (\n{}\n) AND row >= {:d} AND row < {:d} ORDER BY row"

_OURS = ' THEN 1 END FROM pictures"'  # the end of _IN_CASE, as SQLite quotes it

_DAMAGED = ("database disk image is malformed", "disk I/O error", "file is not a database")


class Where:
    """Conditions on the rows of one rows.sqlite. Safe to share between threads; close it."""

    def __init__(
        self,
        path: Path,
        *,
        timeout_s: float = FILTER_TIMEOUT_S,
        first: int = 0,
        columns: Callable[[], ColumnFile | None] = lambda: None,
    ) -> None:
        """timeout_s: how long one condition may take. first: the number that the first row has in conditions.

        columns: gives the columns beside the rows as of now, if there are any; they number the first row 0.

        Raises:
            IndexDamaged: the database cannot be read.
        """
        self._path = path
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._answers: dict[tuple[object, ...], Rows] = {}
        self._guard = Guard()
        self._first = first
        self._columns = columns
        self._is_old = False  # the view, which may lack what a commit has added
        try:
            self._db = connect(path, write=False)
            self._has_exif = exif_is_there(self._db)
            close_in(self._db, self._guard, with_exif=self._has_exif, first=first)
        except sqlite3.Error as exc:
            raise unreadable(path, exc) from exc

    def rows(
        self,
        condition: str,
        params: Mapping[str, Any] | None,
        below: int,
        check: Callable[[], None] = lambda: None,
    ) -> Rows:
        """Find the rows below `below` that meet the condition: ascending, read-only, tombstones included.

        Args:
            condition: an SQL expression over `COLUMNS`.
            params: values of its `:name` parameters: text, numbers or None.
            check: called now and then; what it raises ends the evaluation.

        Raises:
            InvalidArgument: it is not such an expression, uses something forbidden, or takes too long.
            IndexFault: the database was written to meanwhile, on a file system without locks.
        """
        values = {} if params is None else _checked(params)
        _check_text(condition)
        # Both sides of a comparison are composed, so that names that look the same are equal.
        condition = composed(condition)
        values = {name: composed(value) if isinstance(value, str) else value for name, value in values.items()}
        key = (condition, below, *((name, type(value), value) for name, value in sorted(values.items())))
        with self._lock:
            found = self._answers.pop(key, None)
            if found is None:
                self._look_at_the_schema()
                with self._guard.asking(check):
                    found = self._evaluated(condition, values, below)
                while len(self._answers) >= _KEPT:
                    self._answers.pop(next(iter(self._answers)))
            self._answers[key] = found  # the last to be forgotten
            return found

    def _look_at_the_schema(self) -> None:
        """Take the table `exif` into the view if a commit has made it since."""
        if self._has_exif or not self._is_old:
            return
        try:
            self._db.set_authorizer(None)
            if exif_is_there(self._db):
                self._has_exif = True
                self._db.execute("PRAGMA query_only = OFF")  # of a view in memory
                create_view(self._db, with_exif=True, first=self._first)
            self._is_old = False
        except sqlite3.Error as exc:
            require_still(self._db)
            raise unreadable(self._path, exc) from exc
        finally:
            self._db.execute("PRAGMA query_only = ON")
            self._db.set_authorizer(self._guard.decide)

    def _evaluated(self, condition: str, values: Mapping[str, Any], below: int) -> Rows:
        of_row = of_the_row(condition)
        self._run(_IN_CASE.format(of_row), values)
        rows = self._by_columns(condition, of_row, values, below)
        from_row = 0
        if rows is not None:
            from_row = min(below, rows[1])
        found: list[tuple[Any, ...]] = []
        if rows is None or from_row < below:
            found = self._run(_IN_PARENTHESES.format(of_row, from_row, below), values)
        all_rows = np.fromiter((row for (row,) in found), np.int64)
        if rows is not None:
            all_rows = np.concatenate((rows[0], all_rows))
        all_rows.flags.writeable = False
        return all_rows

    def _by_columns(
        self, condition: str, of_row: str, values: Mapping[str, Any], below: int
    ) -> tuple[Rows, int] | None:
        """Evaluate a condition on the columns beside the rows -> the rows found, and how many they are of.

        None if that cannot be done: SQLite is the judge of what is a condition, and of all that is not plain.
        """
        file = self._columns()
        if file is None:
            return None
        self._run("EXPLAIN " + _IN_PARENTHESES.format(of_row, 0, below), values)
        found = rows_by_columns(file, condition, values, min(below, file.rows), self._run)
        return None if found is None else (found, file.rows)

    def _run(self, sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        self._guard.start(self._timeout_s)
        try:
            found = self._db.execute(sql, values).fetchall()
        except (sqlite3.Error, sqlite3.Warning, OverflowError) as exc:
            if self._guard.interruption is not None:
                raise self._guard.interruption from exc
            require_still(self._db)  # a write meanwhile may be the cause
            raise self._translated(exc) from exc
        require_still(self._db)
        return found

    def _translated(self, exc: Exception) -> Exception:
        text = " ".join(str(exc).split()).replace('near "THEN": syntax error', "it ends too early")
        if text.endswith(_OURS):  # an open quote reaches to the end of the statement
            text = f'{text.removesuffix(_OURS)}": a quote is opened and not closed'
        text = text if len(text) <= 200 else f"{text[:200]} ..."
        if text in _DAMAGED or was_refused(exc):
            return unreadable(self._path, exc)
        if self._guard.late:
            return InvalidArgument(
                f"the filter took longer than {self._timeout_s:g} s and was stopped; make it simpler"
            )
        if self._guard.refused:
            return InvalidArgument(f"the filter {self._guard.refused}; docs/search.md says what a filter may use")
        if "value for binding" in text or "Incorrect number of bindings" in text:
            return InvalidArgument(
                f"the filter names a parameter that was not given ({text.rstrip('.')}); "
                "write it :NAME, and give it as --param NAME=VALUE, in Python as params={'NAME': VALUE}"
            )
        if "arguments to function near()" in text:
            text = "near takes the latitude, the longitude and a distance in km, as in near(48.1, 11.6, 5)"
        columns = f"; the columns are {', '.join(COLUMNS)}" if "no such column" in text else ""
        return InvalidArgument(
            f"the filter is not a condition in SQL: {text.rstrip('.')}{columns}; write, for example,  "
            "width > 1000 AND path GLOB '*/2024/*'"
        )

    def selected(
        self, sql: str, values: Mapping[str, Any], check: Callable[[], None] = lambda: None
    ) -> list[tuple[Any, ...]]:
        """Run a SELECT over the view `pictures` -> its records.

        sql: written by this package, with no text of a user in it: it may count, and read `main.rows.deleted_at`.
        check: as for `rows`.

        Raises:
            InvalidArgument: it takes too long.
            IndexFault: as `rows`.
        """
        with self._lock:
            self._look_at_the_schema()
            self._guard.trusts = True
            try:
                with self._guard.asking(check):
                    return self._run(sql, values)
            finally:
                self._guard.trusts = False

    def forget(self) -> None:
        """Drop the cached results: the pictures may have changed."""
        with self._lock:
            self._answers.clear()
            self._is_old = True

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._db.close()


def columns_read(condition: str, among: Sequence[str]) -> set[str]:
    """Return which of these columns a condition reads: SQLite's answer, for it knows "path", `path` and 'path'.

    Of a condition that SQLite cannot compile, each column is returned whose name is anywhere in it.
    """
    condition = composed(condition)  # as it is evaluated
    named = {column for column in among if column in condition.lower()}
    if not named:
        return named
    read: set[str] = set()

    def note(action: int, one: str | None, two: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_READ and one == "pictures" and two is not None:
            read.add(two.lower())
        return sqlite3.SQLITE_OK

    db = sqlite3.connect(":memory:")
    try:
        db.execute(f"CREATE TABLE pictures ({', '.join(COLUMNS)})")
        create_functions(db, lambda function: function)
        db.set_authorizer(note)
        condition = of_the_row(condition)
        for template in (_IN_CASE, f"EXPLAIN {_IN_PARENTHESES}"):
            db.execute(template.format(condition, 0, 0), dict.fromkeys(re.findall(r"[:@$](\w+)", condition)))
    except (sqlite3.Error, sqlite3.Warning, ValueError):
        return named
    finally:
        db.close()
    return named & read


def _check_text(condition: str) -> None:
    if not isinstance(condition, str):
        raise InvalidArgument(f"the filter is {type(condition).__name__}; expected a condition in SQL, a string")
    if not condition.strip():
        raise InvalidArgument("the filter is empty; write a condition in SQL, such as  width > 1000")
    if len(condition) > LONGEST:
        raise InvalidArgument(f"the filter has {len(condition):,} characters; expected at most {LONGEST:,}")
    if _SUBQUERY.search(QUOTED.sub(" ", condition)):
        raise InvalidArgument("the filter contains SELECT or VALUES; expected a condition on one picture")
    if "\0" in condition or not _is_unicode(condition):
        raise InvalidArgument("the filter contains a zero byte or bytes that are not UTF-8; GLOB's ? matches any")


def _checked(params: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(params, Mapping):
        raise InvalidArgument(f"the filter's parameters are {type(params).__name__}; expected a dict")
    for name, value in params.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise InvalidArgument(f"the filter's parameter {name!r} is not a name; expected letters, digits and _")
        if value is not None and not isinstance(value, (str, int, float)):
            raise InvalidArgument(
                f"the filter's parameter {name} is a {type(value).__name__}; expected text, a number or None"
            )
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise InvalidArgument(f"the filter's parameter {name} is out of range; expected at most 64 bits")
        if isinstance(value, str) and not _is_unicode(value):
            raise InvalidArgument(f"the filter's parameter {name} is not UTF-8; GLOB's ? matches any byte")
    return dict(params)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
