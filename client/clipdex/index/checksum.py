"""Checksums of the records of an index: SQLite finds a broken page, but not a flipped bit in a value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import google_crc32c

__all__ = ["Value", "is_sound", "record_crc32c", "record_crc32cs"]

Value: TypeAlias = "int | bytes | str | None"


class _Beginnings(dict[int, bytes]):
    """How a value of a kind begins in what a checksum covers, by its length; those of long ones are not kept."""

    def __init__(self, kind: bytes) -> None:
        super().__init__({length: b"%b%d:" % (kind, length) for length in range(512)})
        self._kind = kind

    def __missing__(self, length: int) -> bytes:
        return b"%b%d:" % (self._kind, length)


_INT_OF, _BYTES_OF, _TEXT_OF = map(_Beginnings, (b"i", b"b", b"t"))
_NULL = b"n"


def record_crc32c(*values: Value) -> int:
    """Compute the CRC-32C of a record's columns.

    Each value is written as its kind and length, so that no two records have the same bytes:
    NULL as `n`, 12 as `i2:12`, the blob AB as `b2:AB`, the text é as `t2:` and its UTF-8.
    """
    return int(google_crc32c.value(_written(values)))


def record_crc32cs(columns: Sequence[Sequence[Any]]) -> list[int]:
    """Compute the checksums of many records of one table: `record_crc32c` of each, in half the time.

    columns: the values of all of them, by column.
    """
    template = _template(columns)
    if template is not None:
        filled = (column for column in columns if column[0] is not None)
        return list(map(google_crc32c.value, map(template.__mod__, zip(*filled, strict=True))))
    parts: list[Iterable[bytes]] = []
    for column in columns:
        kinds = set(map(type, column))
        if kinds == {int}:
            digits = list(map(b"%d".__mod__, column))
            parts += (map(_INT_OF.__getitem__, map(len, digits)), digits)
        elif kinds == {bytes}:
            parts += (map(_BYTES_OF.__getitem__, map(len, column)), column)
        elif kinds == {str}:
            texts = _encoded(column)
            parts += (map(_TEXT_OF.__getitem__, map(len, texts)), texts)
        else:
            parts.append([_NULL if value is None else _written((value,)) for value in column])
    return list(map(google_crc32c.value, map(b"".join, zip(*parts, strict=True))))


def _template(columns: Sequence[Sequence[Any]]) -> bytes | None:
    """Return how all records are written, such as b"i5:%di19:%dn", if the values of each column begin alike.

    They do so in most tables: as numbers of as many digits, or bytes of one length; or all are NULL.
    """
    template = b""
    for column in columns:
        kinds = set(map(type, column))
        if kinds == {bytes}:
            lengths = set(map(len, column))
            if len(lengths) > 1:
                return None
            template += _BYTES_OF[lengths.pop()] + b"%b"
        elif kinds == {int}:
            least, most = str(min(column)), str(max(column))
            if len(least) != len(most) or least[0] == "-":
                return None
            template += _INT_OF[len(most)] + b"%d"
        elif kinds == {type(None)}:
            template += _NULL
        else:
            return None
    return template if b"%" in template else None


def _encoded(texts: Sequence[str]) -> list[bytes]:
    try:
        return list(map(str.encode, texts))
    except UnicodeEncodeError:  # half of a surrogate pair
        return [text.encode("utf-8", "surrogatepass") for text in texts]


def _written(values: Iterable[Value]) -> bytes:
    parts: list[bytes] = []
    for value in values:
        if isinstance(value, int):
            digits = b"%d" % value
            parts += (_INT_OF[len(digits)], digits)
        elif isinstance(value, bytes):
            parts += (_BYTES_OF[len(value)], value)
        elif value is None:
            parts.append(_NULL)
        else:
            text = value.encode("utf-8", "surrogatepass")
            parts += (_TEXT_OF[len(text)], text)
    return b"".join(parts)


def is_sound(crc32c: Any, *values: Any) -> bool:
    """Return whether a record matches its checksum."""
    # A flipped bit may make a number of a type that no record has.
    return all(isinstance(v, (int, bytes, str, type(None))) for v in values) and record_crc32c(*values) == crc32c
