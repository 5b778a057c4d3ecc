"""GLOB and LIKE on sorted texts, by SQLite's rules, where these are certain: which of the texts match."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipdex.index.side.text_column import SortedTexts

__all__ = ["LONGEST_PATTERN", "Chosen", "chosen_flags", "matching", "named", "ranges_of"]

Flags = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]

LONGEST_PATTERN = 1000  # bytes; SQLite refuses longer ones, if it ever compares with them
_FEW = 2_000  # texts, which SQLite compares itself
_MOST_RANGES = 64  # of a beginning in other cases
_SAMPLE = 65_536  # bytes, whose frequencies are taken for those of all

# A byte of a pattern, in both cases for LIKE, or None: any one character.
_Byte = tuple[int, ...] | None
_Literal = Sequence[_Byte]

# Characters that SQLite reads for bytes that are none.
_AMBIGUOUS = ("\ufffd", "\ufffe", "\uffff")


@dataclass(frozen=True)
class Chosen:
    """Some of the texts: ranges [start, end) of them, or flags, bool (n,)."""

    ranges: list[tuple[int, int]]
    flags: Flags | None = None


def chosen_flags(chosen: Chosen, count: int) -> Flags:
    """Return which of `count` texts were chosen."""
    if chosen.flags is not None:
        return chosen.flags
    flags = np.zeros(count, np.bool_)
    for start, end in chosen.ranges:
        flags[start:end] = True
    return flags


def ranges_of(texts: SortedTexts, operator: str, value: str) -> Chosen:
    """Find the texts for which `text OPERATOR value` is true, byte by byte."""
    key = value.encode()
    start = bisect_left(texts, key)
    end = start + (start < len(texts) and texts[start] == key)
    return Chosen(
        {
            "=": [(start, end)],
            "<>": [(0, start), (end, len(texts))],
            "<": [(0, start)],
            "<=": [(0, end)],
            ">": [(end, len(texts))],
            ">=": [(start, len(texts))],
        }[operator]
    )


def matching(
    texts: SortedTexts,
    kind: str,
    pattern: str,
    judge: Callable[[Sequence[bytes]], Sequence[bool]],
    *,
    names: bool = False,
) -> Chosen | None:
    """Find the texts that match a pattern; None if only SQLite can tell.

    Args:
        kind: "GLOB", or "LIKE" that ignores the case of ASCII letters only.
        judge: asks SQLite about each of a few texts.
        names: of paths, compare what follows the last slash.
    """
    if "\0" in pattern or len(pattern.encode()) > LONGEST_PATTERN:
        return None
    if len(texts) <= _FEW:
        asked = [text.rpartition(b"/")[2] for text in texts] if names else texts[:]
        return Chosen([], np.fromiter(judge(asked), np.bool_, len(texts)))
    if not pattern.isascii() and (not texts.is_utf8 or any(each in pattern for each in _AMBIGUOUS)):
        return None
    parts = _parts(kind, pattern)
    if parts is None or (not texts.is_ascii and any(None in part for part in parts)):
        return None
    return _of_parts(texts, parts, names=names)


def named(texts: SortedTexts, value: str) -> Flags:
    """Find the paths whose part after the last slash is this: bool (n,)."""
    flags = np.zeros(len(texts), np.bool_)
    region = _Region(texts, 0, len(texts), names=True)
    literal = [(byte,) for byte in value.encode()]
    flags[region.ending(*region.followed([], 0), literal, exactly=True)] = True
    return flags


def _parts(kind: str, pattern: str) -> list[list[_Byte]] | None:
    """Split a pattern at what matches any text; None if it has a set of characters."""
    if kind == "GLOB" and "[" in pattern:
        return None
    many, one = ("*", "?") if kind == "GLOB" else ("%", "_")
    return [[_byte(kind, byte, one) for byte in part.encode()] for part in pattern.split(many)]


def _byte(kind: str, byte: int, one: str) -> _Byte:
    if byte == ord(one):
        return None
    letter = chr(byte)
    return (
        (byte,)
        if kind == "GLOB" or byte >= 0x80 or not letter.isalpha()
        else (ord(letter.upper()), ord(letter.lower()))
    )


def _of_parts(texts: SortedTexts, parts: list[list[_Byte]], *, names: bool) -> Chosen | None:
    beginning, end = parts[0], parts[-1] if len(parts) > 1 else []
    middles = [part for part in parts[1:-1] if part]
    if any(all(byte is None for byte in middle) for middle in middles):
        return None
    known = 0 if names else next((i for i, byte in enumerate(beginning) if byte is None), len(beginning))
    ranges = _beginning_with(texts, beginning[:known])
    if ranges is None:
        return None
    if not names and len(parts) > 1 and known == len(beginning) and not middles and not end:
        return Chosen(ranges)
    flags = np.zeros(len(texts), np.bool_)
    for first, last in ranges:
        region = _Region(texts, first, last, names=names)
        found = region.followed(beginning, known)
        for middle in middles:
            found = region.then(*found, middle)
        flags[first + region.ending(*found, end, exactly=len(parts) == 1)] = True
    return Chosen([], flags)


def _beginning_with(texts: SortedTexts, literal: _Literal) -> list[tuple[int, int]] | None:
    """Return the ranges of texts that begin with a literal, in any of its cases; None if they are too many."""
    begun = [(b"", 0, len(texts))]
    for byte in literal:
        assert byte is not None
        longer = []
        for so_far, start, end in begun:
            for case in sorted(set(byte)):
                key = so_far + bytes((case,))
                low = bisect_left(texts, key, start, end)
                high = bisect_left(texts, _after(key), low, end)
                if low < high:
                    longer.append((key, low, high))
        begun = longer
        if len(begun) > _MOST_RANGES:
            return None
    return [(start, end) for _, start, end in begun]


def _after(beginning: bytes) -> bytes:
    """Return the least bytes after all that begin so, the last of them being of UTF-8, which is below 255."""
    return beginning[:-1] + bytes((beginning[-1] + 1,))


class _Region:
    """Texts [first, last) of the sorted ones, or the names that they end with, numbered from 0.

    Places are of bytes in the data of the texts.
    """

    def __init__(self, texts: SortedTexts, first: int, last: int, *, names: bool) -> None:
        self._offsets = texts.offsets[first : last + 1].astype(np.int64)
        self._base = int(self._offsets[0])
        self._data = texts.data[self._base : int(self._offsets[-1])]
        self._offsets -= self._base
        self._starts = self._offsets[:-1]
        if names:
            slashes = np.append(-1, np.flatnonzero(self._data == ord("/")))
            before = slashes[np.searchsorted(slashes, self._offsets[1:]) - 1]  # the last before the end
            self._starts = np.maximum(self._starts, before + 1)

    def followed(self, beginning: _Literal, known: int) -> tuple[Positions, Positions]:
        """Return the texts, all of which begin with the first `known` bytes, that have the others after them.

        -> the texts, and where each goes on.
        """
        which = np.arange(len(self._offsets) - 1)
        places = self._starts + len(beginning)
        kept = places <= self._offsets[1:]
        which, places = which[kept], places[kept]
        kept = self._are(places - len(beginning) + known, beginning[known:])
        return which[kept], places[kept]

    def then(self, which: Positions, places: Positions, literal: _Literal) -> tuple[Positions, Positions]:
        """Find a literal's first place in each text from a place on -> the texts that have it, and their ends."""
        at = self._places_of(literal)
        of = np.searchsorted(self._offsets, at, "right") - 1
        whole = at + len(literal) <= self._offsets[of + 1]
        at, of = at[whole], of[whole]
        if len(of) < len(which):  # most texts have none
            has = np.zeros(len(self._offsets) - 1, np.bool_)
            has[of] = True
            kept = has[which]
            which, places = which[kept], places[kept]
        next_one = np.searchsorted(at, places)
        kept = next_one < len(at)
        kept[kept] = of[next_one[kept]] == which[kept]
        return which[kept], at[next_one[kept]] + len(literal)

    def ending(self, which: Positions, places: Positions, literal: _Literal, *, exactly: bool) -> Positions:
        """Return those of the texts that end with a literal, at a place or after it; `exactly`, at it."""
        starts = self._offsets[which + 1] - len(literal)
        kept = starts == places if exactly else starts >= places
        which, starts = which[kept], starts[kept]
        return which[self._are(starts, literal)]

    def _are(self, places: Positions, literal: _Literal) -> Flags:
        """Whether a literal is at each place, from which on it would be within its text."""
        kept = np.ones(len(places), np.bool_)
        left = places
        for i in reversed(range(len(literal))):
            if (byte := literal[i]) is None:
                continue
            same = _is(self._data[left + i], byte)
            if not same.all():
                kept[kept] = same
                left = left[same]
        return kept

    def _places_of(self, literal: _Literal) -> Positions:
        """Return where a literal, which has a byte that is not None, is in the texts, or across two."""
        step = max(1, len(self._data) // _SAMPLE)
        often = np.bincount(self._data[::step], minlength=256)
        order = sorted(
            (int(sum(often[each] for each in set(byte))), i) for i, byte in enumerate(literal) if byte is not None
        )
        rarest = order[0][1]
        byte = literal[rarest]
        assert byte is not None
        found = np.flatnonzero(_is(self._data, byte)) - rarest
        found = found[(found >= 0) & (found + len(literal) <= len(self._data))]
        for _, i in order[1:]:
            byte = literal[i]
            assert byte is not None
            found = found[_is(self._data[found + i], byte)]
        return found


def _is(data: npt.NDArray[np.uint8], byte: tuple[int, ...]) -> Flags:
    if len(byte) == 1 or byte[0] == byte[1]:
        return np.asarray(data == byte[0])
    return np.asarray((data | 0x20) == byte[1])  # cases of a letter differ in that bit
