"""A connection on which a condition of a user can do nothing but compare the columns of a picture.

Its authorizer allows the view's columns, some pure functions and nothing else; every limit that SQLite has is low;
and a statement ends when its time is up, or nobody waits for it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from clipdex.base.errors import InvalidArgument
from clipdex.index.picture_view import COLUMNS, Function, create_functions, create_view
from clipdex.index.schema import Still

__all__ = ["FUNCTIONS", "LONGEST", "Guard", "close_in"]

# Functions without side effects whose results are no longer than their arguments.
FUNCTIONS = frozenset(
    (
        *("abs", "coalesce", "glob", "has", "hex", "ifnull", "iif", "instr", "length", "like", "lower", "ltrim"),
        *("max", "min", "near", "nullif", "round", "rtrim", "sign", "substr", "substring", "trim", "typeof"),
        *("unicode", "upper", "date", "datetime", "julianday", "strftime", "time", "unixepoch", "current_date"),
        *("current_time", "current_timestamp", "json_array_length", "json_extract", "json_type", "json_valid"),
        *("->", "->>"),
    )
)

LONGEST = 10_000  # characters of a condition
_STEPS = 1_000  # of SQLite's virtual machine, between two looks at the clock; one may take milliseconds

_LIMITS = {
    "LENGTH": 16 << 20,
    "SQL_LENGTH": 4 * LONGEST,
    "EXPR_DEPTH": 200,
    "COMPOUND_SELECT": 1,
    "FUNCTION_ARG": 20,
    "ATTACHED": 0,
    "LIKE_PATTERN_LENGTH": 1000,
    "VARIABLE_NUMBER": 1000,
    "TRIGGER_DEPTH": 1,
    "WORKER_THREADS": 0,
}


class Guard:
    """SQLite's callbacks while it compiles and runs a condition.

    refused: what it refused of a statement, in words. late: whether the time was up. interruption: what ended it.
    trusts: set for a statement of this package.
    """

    def __init__(self) -> None:
        self.refused = ""
        self.late = False
        self.trusts = False
        self.interruption: BaseException | None = None
        self._deadline = 0.0
        self._check: Callable[[], None] = _go_on

    @contextmanager
    def asking(self, check: Callable[[], None]) -> Iterator[None]:
        """Within this, have statements ask now and then whether to go on; what the check raises ends them."""
        self._check = check
        try:
            yield
        finally:
            self._check = _go_on

    def start(self, timeout_s: float) -> None:
        """Reset the state for a new statement."""
        self.refused, self.late, self.interruption = "", False, None
        self._deadline = time.monotonic() + timeout_s

    def decide(self, action: int, one: str | None, two: str | None, base: str | None, inside: str | None) -> int:
        """Be SQLite's authorizer. inside: the view that the access comes from, None for the condition itself."""
        why = self._objection(action, one, two, base, inside)
        if not why:
            return sqlite3.SQLITE_OK
        self.refused = self.refused or why
        return sqlite3.SQLITE_DENY

    def _objection(
        self, action: int, one: str | None, two: str | None, base: str | None, inside: str | None
    ) -> str:
        ours = inside == "pictures"
        if action == sqlite3.SQLITE_SELECT:
            return ""  # its reads are authorized one by one
        if action == sqlite3.SQLITE_READ:
            if base == "main" and one in ("rows", "metadata", "exif") and (ours or two == ""):
                return ""
            if self.trusts and base == "main" and one == "rows" and two in ("row", "deleted_at"):
                return ""
            return "" if base == "temp" and one == "pictures" and two in COLUMNS else f"may not read {one}.{two}"
        if action == sqlite3.SQLITE_FUNCTION:
            counts = self.trusts and two == "count"
            return "" if ours or counts or str(two).lower() in FUNCTIONS else f"may not call {two}()"
        return "may do nothing but compare the columns of a picture"

    def watched(self, function: Function) -> Function:
        """Wrap a function for SQL so that Ctrl-C and InvalidArgument in it come through as they are."""

        def call(*values: Any) -> Any:
            try:
                return function(*values)
            except (KeyboardInterrupt, SystemExit, InvalidArgument) as exc:
                self.interruption = exc
                raise

        return call

    def ask_whether_to_go_on(self) -> int:
        """Ask whether to go on, as SQLite's progress handler: anything but 0 ends the statement."""
        try:
            self._check()
            self.late = time.monotonic() > self._deadline
            return int(self.late)
        except BaseException as exc:  # the check's, or Ctrl-C: SQLite would swallow them
            self.interruption = exc
            return 1


def _go_on() -> None:
    pass


def close_in(db: sqlite3.Connection, guard: Guard, *, with_exif: bool, first: int) -> None:
    """Create the view of conditions, set every limit that SQLite has, and set the guard.

    first: the number that the first row has in conditions.
    """
    create_functions(db, guard.watched)
    db.execute("PRAGMA temp_store = MEMORY")
    # Without locks, a file may be cut short while it is read: if it were mapped, that would kill the process.
    db.execute(f"PRAGMA mmap_size = {0 if isinstance(db, Still) else 1 << 30:d}")
    create_view(db, with_exif=with_exif, first=first)
    db.execute("PRAGMA query_only = ON")
    db.execute("PRAGMA trusted_schema = OFF")
    if hasattr(db, "setlimit"):  # Python 3.11
        for name, limit in _LIMITS.items():
            db.setlimit(getattr(sqlite3, f"SQLITE_LIMIT_{name}"), limit)
    if hasattr(db, "setconfig"):  # Python 3.12
        db.setconfig(getattr(sqlite3, "SQLITE_DBCONFIG_DEFENSIVE"), True)  # noqa: B009
    db.set_authorizer(guard.decide)
    db.set_progress_handler(guard.ask_whether_to_go_on, _STEPS)
