"""IPTC-IIM: the keywords, title and caption that older programs write beside a picture's pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["iptc_records", "iptc_within_photoshop"]

_KEYWORD, _TITLE, _CAPTION = 25, 5, 120
_MOST_RECORDS = 10_000
_IIM = 0x0404
_UTF8 = b"\x1b%G"


def iptc_within_photoshop(data: bytes) -> bytes:
    """Find IIM among Photoshop's resources, `8BIM` one after the other; b"" if it is not there."""
    at = 0
    for _ in range(_MOST_RECORDS):
        if data[at : at + 4] != b"8BIM" or at + 7 > len(data):
            return b""
        kind = int.from_bytes(data[at + 4 : at + 6], "big")
        name = 1 + data[at + 6]
        start = at + 6 + name + name % 2
        size = int.from_bytes(data[start : start + 4], "big")
        if kind == _IIM:
            return data[start + 4 : start + 4 + size]
        at = start + 4 + size + size % 2
    return b""


def iptc_records(data: bytes) -> dict[str, list[str]]:
    """Parse IIM -> its keywords, title and description, each a list; what is cut off ends it."""
    names = {_KEYWORD: "keywords", _TITLE: "title", _CAPTION: "description"}
    found: dict[str, list[str]] = {}
    utf8 = False
    for record, dataset, value in _datasets(data):
        if (record, dataset) == (1, 90):
            utf8 = value == _UTF8
        elif record == 2 and dataset in names:
            found.setdefault(names[dataset], []).append(_text(value, utf8))
    return found


def _datasets(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    for _ in range(_MOST_RECORDS):
        if at + 5 > len(data) or data[at] != 0x1C:
            return
        record, dataset, size = struct.unpack_from(">BBH", data, at + 1)
        if size & 0x8000 or at + 5 + size > len(data):  # lengths of lengths are for pictures within
            return
        yield record, dataset, data[at + 5 : at + 5 + size]
        at += 5 + size


def _text(value: bytes, utf8: bool) -> str:
    if not utf8:
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.decode("latin-1")
    return value.decode("utf-8", "replace")
