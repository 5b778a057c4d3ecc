"""The view of an index's pictures that conditions are over: its columns, and the functions that SQLite lacks."""

from __future__ import annotations

import functools
import json
import re
import sqlite3
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from clipdex.base.exif import keywords_from_json
from clipdex.base.item_paths import id_of_path, is_item
from clipdex.base.json_text import parse_json, plain_text
from clipdex.base.spelling import composed, composed_path
from clipdex.index.near import Near

__all__ = [
    "COLUMNS",
    "EXIF_COLUMNS",
    "QUOTED",
    "Function",
    "create_functions",
    "create_view",
    "exif_is_there",
    "folder_of",
    "holds",
    "of_the_row",
]

Function: TypeAlias = "Callable[..., Any]"

# What a picture's file says of it; NULL where it says nothing.
EXIF_COLUMNS = (
    *("taken", "taken_offset", "make", "camera", "lens", "latitude", "longitude", "rating", "keywords", "title"),
    "description",
)
COLUMNS = (
    *("row", "path", "id", "name", "folder", "size", "width", "height", "modified", "mtime", "meta"),
    *EXIF_COLUMNS,
)

# CAST gives each column an affinity, so that numbers and texts compare as expected. Texts are composed
# (`spelling`); most are ASCII, which SQLite detects by itself, faster than it calls a function: as many characters
# as bytes. A byte that is not UTF-8 counts as a character, and composing leaves it as it is. In JSON, what is
# escaped as \ud800 or so may be half of a surrogate pair, of which SQLite would make bytes that are no text.
_VIEW = """
CREATE TEMP VIEW pictures AS
SELECT rows.row AS row,
    CAST(CASE WHEN path >= x'69643A' AND path < x'69643B' THEN item_text(path)
        WHEN length(CAST(path AS TEXT)) <> length(path) THEN composed_path(path) ELSE path END AS TEXT) AS path,
    CASE WHEN path >= x'69643A' AND path < x'69643B' THEN item_id(path) END AS id,
    CAST(last_part(path) AS TEXT) AS name,
    CAST(first_part(path) AS TEXT) AS folder,
    size, width, height,
    CAST(datetime(mtime_ns / 1000000000, 'unixepoch') AS TEXT) AS modified,
    CAST(mtime_ns / 1e9 AS REAL) AS mtime,
    coalesce(CASE WHEN length(json) <> length(CAST(json AS BLOB)) OR instr(json, '\\ud') OR instr(json, '\\uD')
        THEN composed_json(json) ELSE json END, '{}') AS meta,
"""
# SQLite leaves out a join of which no column is used.
_FROM = "FROM main.rows LEFT JOIN main.metadata ON metadata.row = rows.row"
_WITH_EXIF = f"""
    CAST(taken AS TEXT) AS taken, CAST(taken_offset AS TEXT) AS taken_offset, CAST(make AS TEXT) AS make,
    CAST(camera AS TEXT) AS camera, CAST(lens AS TEXT) AS lens,
    CAST(latitude_e7 / 1e7 AS REAL) AS latitude, CAST(longitude_e7 / 1e7 AS REAL) AS longitude,
    rating, CAST(keywords AS TEXT) AS keywords, CAST(title AS TEXT) AS title,
    CAST(description AS TEXT) AS description
{_FROM} LEFT JOIN main.exif ON exif.row = rows.row
"""
_WITHOUT_EXIF = f"{', '.join(f'NULL AS {name}' for name in EXIF_COLUMNS)} {_FROM}"
_EXIF_IS_THERE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'exif'"

_NEAR_OF_ROW = r"near\1(latitude, longitude, "
# `near(48.1, 11.6, 5)` is of the row's own place, which no function can see by itself.
_NEAR = re.compile(r"\bnear(\s*)\(", re.IGNORECASE)

# What a condition quotes, and its comments.
QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^]]*\]|--[^\n]*|/\*.*?\*/""", re.DOTALL)

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # an escape, of a pair or of half of one


def exif_is_there(db: sqlite3.Connection) -> bool:
    """Return whether the index has the table of what files say of themselves, which a commit makes when needed."""
    return db.execute(_EXIF_IS_THERE).fetchone() is not None


def create_view(db: sqlite3.Connection, *, with_exif: bool, first: int = 0) -> None:
    """Create the view `pictures`, or make it anew.

    with_exif: the table is there. first: the number of the first row, which is not 0 in a part.
    """
    db.execute("DROP VIEW IF EXISTS temp.pictures")
    view = _VIEW.replace("rows.row AS row", f"rows.row + {first:d} AS row") if first else _VIEW
    db.execute(view + (_WITH_EXIF if with_exif else _WITHOUT_EXIF))


def create_functions(db: sqlite3.Connection, watched: Callable[[Function], Function]) -> None:
    """Create the functions of this package for SQL: the view's own, `has` and `near`."""
    db.create_function("last_part", 1, watched(_last_part), deterministic=True)
    db.create_function("first_part", 1, watched(folder_of), deterministic=True)
    db.create_function("composed_path", 1, watched(composed_path), deterministic=True)
    db.create_function("item_text", 1, watched(_path), deterministic=True)
    db.create_function("item_id", 1, watched(id_of_path), deterministic=True)
    db.create_function("composed_json", 1, watched(_composed_json), deterministic=True)
    db.create_function("has", 3, watched(_has), deterministic=True)
    db.create_function("has", 2, watched(holds), deterministic=True)
    db.create_function("near", 5, watched(Near()), deterministic=True)


def holds(texts: object, value: object) -> int:
    """Return whether a JSON list of texts contains a value, 1 or 0: `has(keywords, 'beach')`."""
    if not isinstance(texts, str) or not isinstance(value, str):
        return 0
    if _literal(value) not in texts and "\\u" not in texts:  # most rows; no JSON is parsed
        return 0
    return int(value in keywords_from_json(texts))


@functools.lru_cache(maxsize=64)
def _literal(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def of_the_row(condition: str) -> str:
    """Give each `near(` outside quotes and comments the place of the row as its first arguments."""
    parts, at = [], 0
    for quoted in QUOTED.finditer(condition):
        parts += [_NEAR.sub(_NEAR_OF_ROW, condition[at : quoted.start()]), quoted[0]]
        at = quoted.end()
    return "".join([*parts, _NEAR.sub(_NEAR_OF_ROW, condition[at:])])


def _path(path: bytes) -> bytes:
    return composed_path(path[:-1] if is_item(path) else path)


def _last_part(path: bytes) -> bytes:
    return _path(path).rpartition(b"/")[2]


def folder_of(path: bytes) -> bytes | None:
    """Return the folder of a path of the index, composed; None for an item."""
    return None if is_item(path) else composed_path(path).rpartition(b"/")[0] or b"/"


def _composed_json(text: object) -> object:
    """Compose the texts in a JSON text, one by one: an accent must not combine with the end of an escape.

    Halves of surrogate pairs become U+FFFD, as in the metadata of a hit.
    """
    if not isinstance(text, str) or (unicodedata.is_normalized("NFC", text) and not _SURROGATE.search(text)):
        return text
    with suppress(ValueError, RecursionError):
        return json.dumps(_composed_value(parse_json(text)), ensure_ascii=False, separators=(",", ":"))
    return text


def _composed_value(value: Any) -> Any:
    if isinstance(value, str):
        return composed(plain_text(value))
    if isinstance(value, list):
        return [_composed_value(each) for each in value]
    if isinstance(value, dict):
        return {composed(plain_text(key)): _composed_value(each) for key, each in value.items()}
    return value


def _has(meta: object, field: object, value: object) -> int:
    """Return whether a field is that value or a list that contains it: `has(meta, 'tags', 'red')`."""
    found = None
    with suppress(ValueError, TypeError, AttributeError):
        found = parse_json(meta).get(field)  # type: ignore[arg-type]
    return int(value in found if isinstance(found, list) else found is not None and found == value)
