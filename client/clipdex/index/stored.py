"""Reading a row's records from several tables: the SELECT, checks of types and checksums, and the values."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from operator import contains, eq
from typing import Any

from clipdex.base.exif import Exif, keywords_from_json
from clipdex.base.records import Failure, KnownFile, Picture, maker
from clipdex.index.checksum import Value, record_crc32c, record_crc32cs
from clipdex.looks.signature import SIGNATURE_BYTES

__all__ = [
    "EXIF_COLUMNS",
    "KINDS",
    "LATER_OF_ROWS",
    "are",
    "exif_record",
    "failure_of",
    "is_stored_count",
    "is_whole",
    "known_file",
    "pictures_of",
    "sound_among",
    "stored",
    "whole_among",
    "wrong_kind",
]

_INT, _BYTES, _TEXT, _INT_OR_NONE = (int,), (bytes,), (str,), (int, type(None))
_TEXT_OR_NONE = (str, type(None))

# Of the table `exif`, without the row and the checksum.
EXIF_COLUMNS = (
    *("taken", "taken_offset", "make", "camera", "lens", "latitude_e7", "longitude_e7", "rating", "keywords"),
    *("title", "description"),
)
_EXIF_FIELDS = tuple(name.removesuffix("_e7") for name in EXIF_COLUMNS)
_EXIF_KINDS = (*(5 * (_TEXT_OR_NONE,)), *(3 * (_INT_OR_NONE,)), *(3 * (_TEXT_OR_NONE,)))
_E7 = 10_000_000

# The types of the columns that a table's checksum covers. A flipped bit may change a value's type.
KINDS: dict[str, tuple[tuple[type, ...], ...]] = {
    "rows": (_INT, _BYTES, _INT, _INT, _BYTES, _INT, _INT, _INT_OR_NONE),
    "extents": (_INT, _INT, _INT, _INT),
    "failures": (_BYTES, _TEXT, _TEXT, _INT, _INT, _INT),
    "metadata": (_INT, _TEXT),
    "phashes": (_INT, _BYTES),
    "ctimes": (_INT, _INT),
    "failure_ctimes": (_BYTES, _INT),
    "exif": (_INT, *_EXIF_KINDS),
}

_make_picture, _make_known, _make_exif = maker(Picture), maker(KnownFile), maker(Exif)

_SETS = {table: tuple(map(frozenset, kinds)) for table, kinds in KINDS.items()}

_MOST = 1 << 48  # of rows, and of anything else that an index counts

_ROW = "rows.row, path, size, mtime_ns, content_hash, width, height, deleted_at, rows.crc32c"

# Tables that may be missing, and their column of values.
LATER_OF_ROWS = {"phashes": "phash", "ctimes": "ctime_ns"}
_AT_EXIF = 15

# Tables with a value of a row, and where it is in a record; its checksum follows.
_AT_JSON, _AT_PHASH, _AT_CTIME = 9, 11, 13
_BESIDE = (("metadata", _AT_JSON), ("phashes", _AT_PHASH), ("ctimes", _AT_CTIME))

# The types of a row's columns, and of the JSON beside them.
_PLAUSIBLE = (*_SETS["rows"], frozenset((str, type(None))))


def stored(tables: Container[str], rows: str = "rows") -> str:
    """Write the SELECT list and FROM clause for a row's records. tables: those that exist of
    `LATER_OF_ROWS` and `exif`. rows: the table, or a join with it.
    """
    columns, joins = [_ROW, "json, metadata.crc32c"], [rows, "metadata USING (row)"]
    for table, column in LATER_OF_ROWS.items():
        columns.append(f"{column}, {table}.crc32c" if table in tables else "NULL, NULL")
        joins += [f"{table} USING (row)"] if table in tables else []
    if "exif" in tables:
        columns.append(f"{', '.join(f'exif.{name}' for name in EXIF_COLUMNS)}, exif.crc32c")
        joins.append("exif USING (row)")
    return f"{', '.join(columns)} FROM {' LEFT JOIN '.join(joins)}"


def are(values: Sequence[Any], kinds: Sequence[tuple[type, ...]]) -> bool:
    """Return whether values have the right types; the checksum is not checked."""
    return len(values) == len(kinds) and all(map(contains, kinds, map(type, values)))


def is_whole(table: str, crc32c: Any, *values: Any) -> bool:
    """Return whether a table's record has the right types and matches its checksum."""
    return (
        are(values, KINDS[table])
        and (table != "phashes" or len(values[1]) == SIGNATURE_BYTES)
        and record_crc32c(*values) == crc32c
    )


def whole_among(table: str, records: Sequence[Sequence[Any]]) -> list[bool]:
    """Return for each of many records of a table, its checksum first, whether it is whole; see `is_whole`."""
    if not records:
        return []
    crcs, *columns = zip(*records, strict=True)
    if not all(kinds.issuperset(map(type, column)) for kinds, column in zip(_SETS[table], columns, strict=True)):
        return [is_whole(table, *record) for record in records]
    if table == "phashes" and set(map(len, columns[1])) != {SIGNATURE_BYTES}:
        return [is_whole(table, *record) for record in records]
    return list(map(eq, record_crc32cs(columns), crcs))


def pictures_of(records: Sequence[Sequence[Any]]) -> list[Picture]:
    """Make Pictures from records of `stored`. Damaged signatures, ctimes and Exif become None."""
    phashes, ctimes = (_sound_values(table, at, records) for table, at in _BESIDE[1:])
    return [
        _make_picture(*record[1:7], record[_AT_JSON], phash, ctime_ns, exif)
        for record, phash, ctime_ns, exif in zip(records, phashes, ctimes, _sound_exif(records), strict=True)
    ]


def _sound_values(table: str, at: int, records: Sequence[Sequence[Any]]) -> list[Any]:
    """Read the values of a table beside `rows`; None where there is none, or a damaged one."""
    there = [i for i, record in enumerate(records) if record[at] is not None]
    found: list[Any] = [None] * len(records)
    whole = whole_among(table, [(records[i][at + 1], records[i][0], records[i][at]) for i in there])
    for i, sound in zip(there, whole, strict=True):
        found[i] = records[i][at] if sound else None
    return found


def _sound_exif(records: Sequence[Sequence[Any]]) -> list[Exif | None]:
    there = [i for i, record in enumerate(records) if _has_exif(record)]
    found: list[Exif | None] = [None] * len(records)
    for i, sound in zip(there, whole_among("exif", [_exif_part(records[i]) for i in there]), strict=True):
        found[i] = _exif_of(records[i]) if sound else None
    return found


def exif_record(row: int, exif: Exif) -> tuple[Value, ...]:
    """Return the columns of the table `exif` for what a picture says."""
    e = exif
    keywords = json.dumps(list(e.keywords), ensure_ascii=False) if e.keywords else None
    place = [None if degrees is None else round(degrees * _E7) for degrees in (e.latitude, e.longitude)]
    of_camera = (e.taken, e.taken_offset, e.make, e.camera, e.lens)
    return (row, *of_camera, *place, e.rating, keywords, e.title, e.description)


def wrong_kind(records: Sequence[Sequence[Any]]) -> Sequence[Any] | None:
    """Find the first record of `stored` with a value of a wrong type; the checksums are not checked."""
    columns = list(zip(*records, strict=True))
    kinds = zip(_PLAUSIBLE, (*columns[:8], *columns[_AT_JSON : _AT_JSON + 1]), strict=False)
    if all(right.issuperset(map(type, column)) for right, column in kinds):
        return None
    for record in records:
        if not all(map(contains, _PLAUSIBLE, map(type, (*record[:8], record[_AT_JSON])))):
            return record
    return None


def known_file(record: Sequence[Any]) -> KnownFile:
    """Make a KnownFile from an undamaged record of `stored`."""
    row, _, size, mtime_ns, content_hash = record[:5]
    return _make_known(size, mtime_ns, row, content_hash, record[_AT_CTIME], record[_AT_PHASH] is not None)


def sound_among(records: Sequence[Sequence[Any]]) -> list[bool]:
    """Return for each of many records of `stored` whether all its parts match their checksums."""
    sound = whole_among("rows", [(record[8], *record[:8]) for record in records])

    def require(table: str, there: list[int], parts: list[tuple[Any, ...]]) -> None:
        for i, whole in zip(there, whole_among(table, parts), strict=True):
            sound[i] &= whole

    for table, at in _BESIDE:
        there = [i for i, record in enumerate(records) if record[at] is not None or record[at + 1] is not None]
        require(table, there, [(records[i][at + 1], records[i][0], records[i][at]) for i in there])
    there = [i for i, record in enumerate(records) if _has_exif(record)]
    require("exif", there, [_exif_part(records[i]) for i in there])
    return sound


def failure_of(
    path: bytes, reason: str, detail: str, size: int, mtime_ns: int, ctime_ns: Any, crc: Any
) -> Failure:
    """Make a Failure from a line of the ledger and its ctime, which becomes None if it is damaged."""
    known = ctime_ns is not None and is_whole("failure_ctimes", crc, path, ctime_ns)
    return Failure(path, reason, detail, size, mtime_ns, ctime_ns if known else None)


def _has_exif(record: Sequence[Any]) -> bool:
    return record[_AT_EXIF:].count(None) < len(record) - _AT_EXIF


def _exif_part(record: Sequence[Any]) -> tuple[Any, ...]:
    """Return the checksum of a record's part in `exif`, the row, and its other columns."""
    return (record[-1], record[0], *record[_AT_EXIF:-1])


def _exif_of(record: Sequence[Any]) -> Exif:
    said = dict(zip(_EXIF_FIELDS, record[_AT_EXIF:-1], strict=True))
    for name in ("latitude", "longitude"):
        if said[name] is not None:
            said[name] /= _E7
    said["keywords"] = keywords_from_json(said["keywords"])
    return _make_exif(**said)


def is_stored_count(value: object) -> bool:
    """Return whether a value from an index's file is a count: an int, at least 0 and below 2^48."""
    return type(value) is int and 0 <= value < _MOST
