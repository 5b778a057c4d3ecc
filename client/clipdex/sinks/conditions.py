"""The part of `--where` that vector databases can express, as a tree.

A condition keeps SQL's meaning: a picture without a value meets no comparison with it, nor the comparison's
negation. So NOT is pushed down to the comparisons, and a database that lacks SQL's NULL can express the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

from clipdex.base.errors import InvalidArgument
from clipdex.base.spelling import composed
from clipdex.index.picture_view import COLUMNS

__all__ = ["AllOf", "AnyOf", "Compare", "Condition", "Contains", "OneOf", "Operator", "Present", "parse_condition"]

Operator: TypeAlias = Literal["=", "<>", "<", "<=", ">", ">="]
Scalar: TypeAlias = "int | float | str"


@dataclass(frozen=True)
class Compare:
    """A field compared with a value.

    field: a column of the index, or `meta.KEY`; of a checked condition, a column of the collection, of this kind.
    """

    field: str
    operator: Operator
    value: Scalar
    kind: str = ""


@dataclass(frozen=True)
class OneOf:
    """A field that is, or is not, one of some values."""

    field: str
    values: tuple[Scalar, ...]
    negated: bool = False
    kind: str = ""


@dataclass(frozen=True)
class Contains:
    """`has(meta, KEY, VALUE)`: a field that is the value, or a list with it; or, negated, all other pictures.

    `has(keywords, VALUE)` is the same of a column.
    """

    field: str
    value: Scalar
    negated: bool = False
    kind: str = ""


@dataclass(frozen=True)
class Present:
    """A field that has a value, or has none."""

    field: str
    present: bool = True


@dataclass(frozen=True)
class AllOf:
    """All of the parts."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class AnyOf:
    """At least one of the parts."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = "Compare | OneOf | Contains | Present | AllOf | AnyOf"

_NOT_THERE = ("row", "meta")  # `meta` as a whole
_OPPOSITE: dict[Operator, Operator] = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED: dict[Operator, Operator] = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<text>'(?:[^']|'')*')
    |(?P<param>:[A-Za-z_]\w*)
    |(?P<name>[A-Za-z_]\w*|"(?:[^"]|"")*")
    |(?P<sign>->>|->|<=|>=|<>|!=|==|=|<|>|\(|\)|,|-|\+)
    )""",
    re.VERBOSE,
)
_DEEPEST = 50
_LONGEST_NUMBER = 400  # characters; `int` raises for more than 4,300
_BETWEEN_OPERANDS = {"and", "or", "not", "in", "between", "is", "has", "glob", "like"}


def parse_condition(text: str, params: Mapping[str, Any] | None = None) -> Condition:
    """Parse a condition as `--where` takes it, or the part of that language that databases can express.

    That is: comparisons of a column or of `meta ->> 'KEY'` with a number or a text, IN, BETWEEN, IS NULL,
    `has(meta, 'KEY', VALUE)`, `has(keywords, VALUE)`, `GLOB 'BEGINNING*'`, AND, OR, NOT and parentheses.

    Raises:
        InvalidArgument: it is not such a condition; the message says what cannot be expressed.
    """
    return _Parser(text, params or {}).parsed()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


class _Parser:
    """Recursive descent over the tokens of one condition."""

    def __init__(self, text: str, params: Mapping[str, Any]) -> None:
        self._text = text
        self._params = params
        self._tokens = self._split(text)
        self._at = 0
        self._depth = 0

    def parsed(self) -> Condition:
        found = self._any(negated=False)
        if self._at < len(self._tokens):
            self._refuse(f"uses {self._tokens[self._at].text!r:.40} in the wrong place")
        return found

    def _split(self, text: str) -> list[_Token]:
        tokens, at = [], 0
        text = text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None or match.lastgroup is None:
                self._refuse(f"uses {text[at:].strip()[:20]!r}")
            tokens.append(_Token(match.lastgroup, match.group(match.lastgroup)))
            at = match.end()
        if not tokens:
            raise InvalidArgument("the filter is empty; write a condition in SQL, such as  width > 1000")
        return tokens

    def _refuse(self, why: str) -> NoReturn:
        raise InvalidArgument(
            f"the filter {self._text!r:.200} {why}; a vector database takes comparisons of a column or of "
            "meta ->> 'KEY' with numbers and texts, IN, BETWEEN, IS NULL, has(meta, 'KEY', VALUE), "
            "has(keywords, VALUE), GLOB 'BEGINNING*', AND, OR and NOT"
        )

    # AND, OR, NOT

    def _any(self, negated: bool) -> Condition:
        return self._joined("or", self._all, AllOf if negated else AnyOf, negated)

    def _all(self, negated: bool) -> Condition:
        return self._joined("and", self._one, AnyOf if negated else AllOf, negated)

    def _joined(
        self, word: str, part: Callable[[bool], Condition], kind: type[AllOf] | type[AnyOf], negated: bool
    ) -> Condition:
        parts = [part(negated)]
        while self._takes(word):
            parts.append(part(negated))
        return parts[0] if len(parts) == 1 else kind(tuple(parts))

    def _one(self, negated: bool) -> Condition:
        with self._deeper():
            if self._takes("not"):
                return self._one(not negated)
            if self._is("(") and not self._is_operand():
                self._expect("(")
                inner = self._any(negated)
                self._expect(")")
                return inner
            return self._comparison(negated)

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._refuse("is nested too deeply")
        try:
            yield
        finally:
            self._depth -= 1

    def _is_operand(self) -> bool:
        """Whether the parenthesis at hand is around an operand, as in `(meta ->> 'year') > 2000`."""
        depth = 0
        for i in range(self._at, len(self._tokens)):
            text = self._tokens[i].text
            depth += (text == "(") - (text == ")")
            if depth == 0:
                inside = self._tokens[self._at + 1 : i]
                words = {token.text.lower() for token in inside if token.kind == "name"}
                signs = {token.text for token in inside if token.kind == "sign"}
                return not words & _BETWEEN_OPERANDS and not signs & {*_OPPOSITE, "==", "!="}
        return False

    # Comparisons

    def _comparison(self, negated: bool) -> Condition:
        if self._is("has") and self._peek(1) == "(":
            return self._has(negated)
        left = self._operand()
        if self._takes("not"):
            negated = not negated
            if not any(map(self._is, ("in", "between", "glob", "like"))):
                self._refuse("has NOT in the wrong place")
        if self._takes("is"):
            present = self._takes("not")
            self._expect("null")
            return Present(self._field(left), present is not negated)
        if self._takes("in"):
            self._expect("(")
            values = [self._value(self._operand())]
            while self._takes(","):
                values.append(self._value(self._operand()))
            self._expect(")")
            return OneOf(self._field(left), tuple(values), negated)
        if self._takes("between"):
            low = self._value(self._operand())
            self._expect("and")
            high = self._value(self._operand())
            field = self._field(left)
            if negated:
                return AnyOf((Compare(field, "<", low), Compare(field, ">", high)))
            return AllOf((Compare(field, ">=", low), Compare(field, "<=", high)))
        if self._is("glob") or self._is("like"):
            return self._beginning(self._field(left), negated)
        operator = self._operator()
        right = self._operand()
        if isinstance(right, _Column) and not isinstance(left, _Column):
            left, right, operator = right, left, _MIRRORED[operator]
        return Compare(self._field(left), _OPPOSITE[operator] if negated else operator, self._value(right))

    def _beginning(self, field: str, negated: bool) -> Condition:
        """A text that begins with another lies between it and the next that does not.

        LIKE ignores the case of letters, so it is taken only where there are none.
        """
        sign = self._next().text.upper()
        pattern = self._value(self._operand())
        rest, special = ("%", r"[%_a-zA-Z]") if sign == "LIKE" else ("*", r"[*?\[]")
        text = pattern[:-1] if isinstance(pattern, str) and pattern.endswith(rest) else ""
        others = re.search(special, text)
        after = _after(text)
        if others or after is None:
            self._refuse(f"uses {sign!r} {pattern!r:.60}")
        if negated:
            return AnyOf((Compare(field, "<", text), Compare(field, ">=", after)))
        return AllOf((Compare(field, ">=", text), Compare(field, "<", after)))

    def _has(self, negated: bool) -> Condition:
        self._expect("has")
        self._expect("(")
        if self._takes("keywords"):
            self._expect(",")
            word = self._value(self._operand())
            self._expect(")")
            return Contains("keywords", word, negated)
        self._expect("meta")
        self._expect(",")
        key = self._value(self._operand())
        self._expect(",")
        value = self._value(self._operand())
        self._expect(")")
        return Contains(f"meta.{key}", value, negated)

    def _operator(self) -> Operator:
        text = self._next().text
        named: dict[str, Operator] = {"==": "=", "!=": "<>"}
        found = named.get(text, text)
        for each in _OPPOSITE:
            if each == found:
                return each
        self._refuse(f"uses {text!r:.40}")

    # Operands

    def _operand(self) -> _Column | Scalar:
        with self._deeper():
            return self._one_operand()

    def _one_operand(self) -> _Column | Scalar:
        if self._takes("("):
            inner = self._operand()
            self._expect(")")
            return inner
        token = self._next()
        if token.kind == "sign" and token.text in "+-":
            number = self._operand()
            if isinstance(number, (_Column, str)):
                self._refuse("calculates")
            return -number if token.text == "-" else number
        if token.kind == "number":
            if len(token.text) > _LONGEST_NUMBER:
                self._refuse(f"uses a number of {len(token.text):,} digits")
            return int(token.text) if token.text.isdigit() else float(token.text)
        if token.kind == "text":
            return composed(token.text[1:-1].replace("''", "'"))
        if token.kind == "param":
            return self._param(token.text[1:])
        if token.kind == "name":
            return self._column(token.text)
        self._refuse(f"uses {token.text!r:.40} in the wrong place")

    def _column(self, name: str) -> _Column:
        name = name[1:-1].replace('""', '"') if name.startswith('"') else name
        if name.lower() == "json_extract" and self._is("("):
            self._expect("(")
            self._expect("meta")
            self._expect(",")
            found = self._key(self._operand())
            self._expect(")")
            return found
        if name.lower() == "meta":
            if not self._takes("->>"):
                self._refuse("uses meta as a whole")
            return self._key(self._operand())
        if name.lower() == "near":
            self._refuse("uses near(); write  latitude BETWEEN A AND B AND longitude BETWEEN C AND D")
        if name.lower() not in COLUMNS or name.lower() in _NOT_THERE:
            self._refuse(f"uses {name!r:.40}")
        return _Column(name.lower())

    def _key(self, said: _Column | Scalar) -> _Column:
        if not isinstance(said, str):
            self._refuse("uses a key of meta that is no text")
        key = said.removeprefix("$.") if said.startswith("$") else said
        if said.startswith("$") and (not said.startswith("$.") or re.search(r'[.\["]', key)):
            self._refuse("looks inside a field of meta")
        return _Column(f"meta.{key}")

    def _param(self, name: str) -> Scalar:
        if name not in self._params:
            raise InvalidArgument(
                f"the filter names a parameter that was not given (:{name}); give it as --param {name}=VALUE, "
                f"in Python as params={{{name!r}: VALUE}}"
            )
        value = self._params[name]
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            self._refuse(f"uses the value of :{name}")
        return composed(value) if isinstance(value, str) else value

    def _field(self, operand: _Column | Scalar) -> str:
        if not isinstance(operand, _Column):
            self._refuse("compares two values")
        return operand.name

    def _value(self, operand: _Column | Scalar) -> Scalar:
        if isinstance(operand, _Column):
            self._refuse("compares two columns")
        return operand

    # Tokens

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at].text.lower() if at < len(self._tokens) else ""

    def _is(self, word: str) -> bool:
        return self._peek() == word and self._tokens[self._at].kind in ("name", "sign")

    def _takes(self, word: str) -> bool:
        found = self._at < len(self._tokens) and self._is(word)
        self._at += found
        return found

    def _expect(self, word: str) -> None:
        if not self._takes(word):
            self._refuse(f"lacks {word.upper()!r} or has something else in its place")

    def _next(self) -> _Token:
        if self._at >= len(self._tokens):
            self._refuse("ends too early")
        self._at += 1
        return self._tokens[self._at - 1]


@dataclass(frozen=True)
class _Column:
    name: str


def _after(text: str) -> str | None:
    """Return the first text, by code points, after all that begin with this one; None if there is none."""
    if not text or ord(text[-1]) == 0x10FFFF:
        return None
    last = ord(text[-1]) + 1
    return text[:-1] + chr(0xE000 if 0xD800 <= last < 0xE000 else last)
