"""Conditions plain enough for arrays: parsed into comparisons of columns with values, joined by AND, OR and NOT.

A subset of what SQLite accepts, whose meaning is certain. Whatever else a condition has, SQLite evaluates it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = [
    "Arithmetic",
    "Both",
    "Comparison",
    "Condition",
    "Constant",
    "Either",
    "Holds",
    "Match",
    "Member",
    "Name",
    "NearPlace",
    "Not",
    "Null",
    "plain_condition",
]

Constant: TypeAlias = "int | float | str | None"

_TOKEN = re.compile(
    r"""[ \t\n\r\f]*(?:(?P<real>\d+\.\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)(?![\w.])
    |(?P<whole>\d+)(?![\w.])|(?P<word>[A-Za-z_][A-Za-z0-9_]*)(?![\w$])|:(?P<parameter>[A-Za-z_][A-Za-z0-9_]*)(?![\w$:])
    |'(?P<text>(?:[^']|'')*)'|(?P<mark>->>|<=|>=|<>|!=|==|/(?!\*)|[-+*(),<>=]))""",
    re.VERBOSE | re.ASCII,
)
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_SPELLED = {"==": "=", "!=": "<>"}
_MOST_MEMBERS = 64
_DEEPEST = 50
_WORDS = frozenset(("AND", "OR", "NOT", "BETWEEN", "IN", "IS", "ISNULL", "NOTNULL", "NULL", "GLOB", "LIKE"))


@dataclass(frozen=True)
class Name:
    """A column, in lower case, or the metadata key of `meta ->> 'KEY'` as `meta.KEY`."""

    name: str


@dataclass(frozen=True)
class Arithmetic:
    """one OPERATOR other. operator: + - * /."""

    one: Term
    operator: str
    other: Term


Term: TypeAlias = "Constant | Name | Arithmetic"


@dataclass(frozen=True)
class Comparison:
    """column OPERATOR value. operator: < <= > >= = <>."""

    column: Name | Arithmetic
    operator: str
    value: Term


@dataclass(frozen=True)
class Member:
    """column IN (values)."""

    column: Name
    values: tuple[Constant, ...]


@dataclass(frozen=True)
class Null:
    """column IS NULL."""

    column: Name


@dataclass(frozen=True)
class Match:
    """column KIND pattern. kind: GLOB or LIKE."""

    column: Name
    kind: str
    pattern: Constant


@dataclass(frozen=True)
class NearPlace:
    """near(lat, lon, km), of the row's `latitude` and `longitude`."""

    latitude: Name
    longitude: Name
    given: tuple[Constant, Constant, Constant]


@dataclass(frozen=True)
class Holds:
    """has(column, value), of a JSON list of texts."""

    column: Name
    value: Constant


@dataclass(frozen=True)
class Not:
    """NOT condition."""

    condition: Condition


@dataclass(frozen=True)
class Both:
    """one AND other."""

    one: Condition
    other: Condition


@dataclass(frozen=True)
class Either:
    """one OR other."""

    one: Condition
    other: Condition


Condition: TypeAlias = "Comparison | Member | Null | Match | NearPlace | Holds | Not | Both | Either"


class _TooMuch(Exception):
    """The condition is not plain."""


def plain_condition(
    text: str, values: Mapping[str, Any], columns: Mapping[str, Name], real: Callable[[str], Any]
) -> Condition | None:
    """Parse a condition that SQLite has compiled; None if it is not plain.

    Args:
        values: of the parameters.
        columns: those that may be named, by name in lower case; of metadata keys `meta.KEY`.
        real: has SQLite read a number with a point or an exponent, whose last digit depends on its version.
    """
    try:
        parser = _Parser(_tokens(text), values, columns, real)
        condition = parser.either(0)
        parser.expect("end")
    except (_TooMuch, RecursionError):
        return None
    return condition


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    end = len(text.rstrip(" \t\n\r\f"))
    while at < end:
        token = _TOKEN.match(text, at)
        if token is None or token.lastgroup is None:
            raise _TooMuch
        kind, value = token.lastgroup, token[token.lastgroup]
        if kind == "word" and value.upper() in _WORDS:
            kind, value = value.upper(), ""
        elif kind == "mark":
            if value == "-" and text[token.end() : token.end() + 1] == "-":
                raise _TooMuch  # a comment
            kind, value = _SPELLED.get(value, value), ""
        found.append((kind, value))
        at = token.end()
    return [*found, ("end", "")]


class _Parser:
    """Recursive descent; each method takes the tokens of what it is named for."""

    def __init__(
        self,
        tokens: list[tuple[str, str]],
        values: Mapping[str, Any],
        columns: Mapping[str, Name],
        real: Callable[[str], Any],
    ) -> None:
        self._tokens, self._at = tokens, 0
        self._values, self._columns, self._real = values, columns, real

    def _next(self) -> str:
        return self._tokens[self._at][0]

    def _take(self) -> tuple[str, str]:
        self._at += 1
        return self._tokens[self._at - 1]

    def _took(self, kind: str) -> bool:
        if self._next() != kind:
            return False
        self._at += 1
        return True

    def expect(self, kind: str) -> None:
        if not self._took(kind):
            raise _TooMuch

    def either(self, depth: int) -> Condition:
        if depth > _DEEPEST:
            raise _TooMuch
        found = self._both(depth)
        while self._took("OR"):
            found = Either(found, self._both(depth))
        return found

    def _both(self, depth: int) -> Condition:
        found = self._negated(depth)
        while self._took("AND"):
            found = Both(found, self._negated(depth))
        return found

    def _negated(self, depth: int) -> Condition:
        if depth > _DEEPEST:
            raise _TooMuch
        if self._took("NOT"):
            return Not(self._negated(depth + 1))
        if self._took("("):
            found = self.either(depth + 1)
            self.expect(")")
            # Whatever might follow but these would make it an operand.
            if self._next() not in ("AND", "OR", ")", "end"):
                raise _TooMuch
            return found
        found = self._predicate()
        if self._next() not in ("AND", "OR", ")", "end"):
            raise _TooMuch
        return found

    def _predicate(self) -> Condition:
        if self._next() == "word" and self._tokens[self._at + 1][0] == "(":
            return self._function()
        column = self._term()
        if isinstance(column, Arithmetic):
            return Comparison(column, self._operator(), self._term())
        if not isinstance(column, Name):
            operator, other = self._operator(), self._term()
            if not isinstance(other, (Name, Arithmetic)):
                raise _TooMuch
            return Comparison(other, _MIRRORED.get(operator, operator), column)
        if self._took("IS"):
            negated = self._took("NOT")
            self.expect("NULL")
            return Not(Null(column)) if negated else Null(column)
        if self._took("ISNULL"):
            return Null(column)
        if self._took("NOTNULL"):
            return Not(Null(column))
        negated = self._took("NOT")
        if negated and self._took("NULL"):
            return Not(Null(column))
        found: Condition
        if self._took("BETWEEN"):
            low = self._constant()
            self.expect("AND")
            found = Both(Comparison(column, ">=", low), Comparison(column, "<=", self._constant()))
        elif self._took("IN"):
            self.expect("(")
            members = [self._constant()]
            while self._took(","):
                members.append(self._constant())
            self.expect(")")
            if len(members) > _MOST_MEMBERS:
                raise _TooMuch
            found = Member(column, tuple(members))
        elif self._next() in ("GLOB", "LIKE"):
            kind, _ = self._take()
            found = Match(column, kind, self._constant())
        elif negated:
            raise _TooMuch
        else:
            return Comparison(column, self._operator(), self._term())
        return Not(found) if negated else found

    def _term(self) -> Term:
        found = self._product()
        while self._next() in ("+", "-"):
            operator, _ = self._take()
            found = Arithmetic(found, operator, self._product())
        return found

    def _product(self) -> Term:
        found = self._factor()
        while self._next() in ("*", "/"):
            operator, _ = self._take()
            found = Arithmetic(found, operator, self._factor())
        return found

    def _factor(self) -> Term:
        return self._column() if self._next() == "word" else self._constant()

    def _function(self) -> Condition:
        _, function = self._take()
        self.expect("(")
        found: Condition
        if function.lower() == "near":
            given = [self._constant()]
            for _ in range(2):
                self.expect(",")
                given.append(self._constant())
            found = NearPlace(self._named("latitude"), self._named("longitude"), (given[0], given[1], given[2]))
        elif function.lower() == "has":
            column = self._column()
            self.expect(",")
            found = Holds(column, self._constant())
        else:
            raise _TooMuch
        self.expect(")")
        return found

    def _operator(self) -> str:
        kind, _ = self._take()
        if kind not in ("<", "<=", ">", ">=", "=", "<>"):
            raise _TooMuch
        return kind

    def _column(self) -> Name:
        kind, name = self._take()
        if kind != "word":
            raise _TooMuch
        name = name.lower()
        if name == "meta":
            self.expect("->>")
            kind, key = self._take()
            if kind != "text":
                raise _TooMuch
            name = "meta." + key.replace("''", "'")
        return self._named(name)

    def _named(self, name: str) -> Name:
        if name not in self._columns:
            raise _TooMuch
        return self._columns[name]

    def _constant(self) -> Constant:
        sign = ""
        if self._next() in ("-", "+"):
            sign, _ = self._take()
        kind, text = self._take()
        if kind == "whole":
            whole = int(text)
            if whole >= 1 << 63:  # SQLite takes it for a real number
                raise _TooMuch
            return -whole if sign == "-" else whole
        if kind == "real":
            number = self._real(text)
            if type(number) is not float:
                raise _TooMuch
            return -number if sign == "-" else number
        if sign:
            raise _TooMuch
        if kind == "NULL":
            return None
        if kind == "text":
            return text.replace("''", "'")
        if kind == "parameter" and text in self._values:
            value = self._values[text]
            if isinstance(value, float):
                return None if math.isnan(value) else value  # as SQLite binds it
            if value is None or isinstance(value, (int, str)):
                return int(value) if isinstance(value, bool) else value
        raise _TooMuch
