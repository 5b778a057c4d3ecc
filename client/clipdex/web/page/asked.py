"""The query in the page's address. static/state.js reads the same parameters."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

__all__ = ["Asked", "AskedPart"]

_MOST_OFFSET = 1_000_000
_PART = re.compile(r"(-?\d{0,9}\.?\d{1,9})~(text|row|id|upload)~(.+)", re.S)


@dataclass(frozen=True)
class AskedPart:
    """A part of the query beside its text. value: a text, the id of an item, or a row and its picture's version.

    A part of the kind "upload" is a picture that was dropped into one browser; nobody else can use it.
    """

    kind: str
    value: str
    weight: float

    def __str__(self) -> str:
        return f"{self.weight:g}~{self.kind}~{self.value}"


@dataclass(frozen=True)
class Asked:
    """A query, as the address spells it.

    offset: of the page of results; without a query, the row after which the pictures are shown.
    """

    index: str | None = None
    text: str = ""
    parts: tuple[AskedPart, ...] = ()
    where: tuple[str, ...] = ()
    min_score: float | None = None
    group: bool = True
    offset: int = 0
    view: str = ""

    @classmethod
    def of(cls, query: QueryParams) -> Asked:
        """Read the parameters of an address; invalid ones are ignored."""
        return cls(
            index=query.get("index") or None,
            text=query.get("text", "").strip(),
            parts=tuple(part for part in map(_part, query.getlist("part")) if part is not None),
            where=tuple(each for each in query.getlist("where") if each.strip()),
            min_score=_number(query.get("min_score", "")),
            group=query.get("group") != "0",
            offset=_count(query.get("offset", "")),
            view=query.get("view", ""),
        )

    @property
    def asks(self) -> bool:
        """True if there is anything to search for."""
        return bool(self.text or any(part.kind != "upload" for part in self.parts))

    @property
    def condition(self) -> str | None:
        """All conditions, joined by AND; None without any."""
        if len(self.where) > 1:
            return " AND ".join(f"({each})" for each in self.where)
        return self.where[0] if self.where else None

    def address(self, root: str = "") -> str:
        """Return the address of this query, below the path at which the application is mounted."""
        words: list[tuple[str, str]] = []
        words += [("index", self.index)] if self.index else []
        words += [("text", self.text)] if self.text else []
        words += [("part", str(part)) for part in self.parts]
        words += [("where", each) for each in self.where]
        words += [("min_score", f"{self.min_score:g}")] if self.min_score is not None else []
        words += [] if self.group else [("group", "0")]
        words += [("offset", str(self.offset))] if self.offset else []
        return f"{root}/?{urlencode(words)}" if words else f"{root}/"

    def at(self, offset: int) -> Asked:
        """Return the same query at another page of its results."""
        return replace(self, offset=offset)

    def like(self, row: int, version: str, item: str | None, weight: float) -> Asked:
        """Return the query for pictures like one of the index."""
        part = AskedPart("row", f"{row}.{version}", weight) if item is None else AskedPart("id", item, weight)
        return Asked(index=self.index, parts=(part,))


def _part(text: str) -> AskedPart | None:
    found = _PART.fullmatch(text)
    if found is None or not float(found[1]):
        return None
    return AskedPart(found[2], found[3], float(found[1]))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _count(text: str) -> int:
    return min(int(text), _MOST_OFFSET) if text.isascii() and text.isdigit() and len(text) < 20 else 0
