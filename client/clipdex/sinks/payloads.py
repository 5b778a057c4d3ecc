"""A picture as a point: its id, its payload, and the fields that payloads have."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from clipdex.base.arguments import is_number
from clipdex.base.errors import InvalidArgument, SinkError
from clipdex.base.exif import MOST_KEYWORDS, Exif
from clipdex.base.item_paths import id_of_path, item_path, path_text
from clipdex.base.json_text import parsed_object, plain_text
from clipdex.base.records import Picture
from clipdex.base.spelling import composed
from clipdex.sinks.conditions import AllOf, AnyOf, Compare, Condition, Contains, OneOf, Operator, Present
from clipdex.sinks.sink import Field, Kind, Payload, Value
from clipdex.sinks.time_texts import first_mtime, first_taken, taken_number

__all__ = [
    "FIELDS",
    "checked_condition",
    "digest_of",
    "metadata_fields",
    "payload_of",
    "picture_of_payload",
    "point_id",
]

# What an index itself has. `metadata` is the whole of it as JSON, and `digest` tells what would be sent anew.
FIELDS = (
    Field("path", "text"),
    Field("id", "text"),
    Field("name", "text"),
    Field("folder", "text"),
    Field("size", "int"),
    Field("width", "int"),
    Field("height", "int"),
    Field("mtime", "real"),
    # What a picture's file says of it; `taken_at` is `taken` as a number (`time_texts`), which all can order.
    Field("taken", "text"),
    Field("taken_at", "int"),
    Field("taken_offset", "text"),
    Field("make", "text"),
    Field("camera", "text"),
    Field("lens", "text"),
    Field("latitude", "real"),
    Field("longitude", "real"),
    Field("rating", "int"),
    Field("keywords", "texts"),
    Field("title", "text"),
    Field("description", "text"),
)
_EXIF = FIELDS[[field.column for field in FIELDS].index("taken") :]
_HIDDEN = ("taken_at",)  # from what is said of the fields
_EXIF_NAMES = {field.column for field in _EXIF} - {*_HIDDEN}
_MOST_FIELDS = 32  # of the metadata; the rest is in `metadata` alone. Milvus takes 64 fields in all
# Bytes of a text in a field. A longer one is in `metadata` alone; so is one with a zero, which PostgreSQL refuses.
_LONGEST_TEXT = 1_024
_MOST_TEXTS = MOST_KEYWORDS


def point_id(path: bytes) -> str:
    """Return the id of a picture's point, a UUID of its path in the index: the same whenever it is pushed."""
    made = bytearray(hashlib.blake2b(path, digest_size=16, person=b"clipdexpoint").digest())
    made[6] = made[6] & 0x0F | 0x80  # version 8 of RFC 9562: of the maker's own kind
    made[8] = made[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(made)))


def digest_of(picture: Picture) -> str:
    """Identify a picture's path, content and all that its payload says, in 16 hex digits."""
    said = f"{picture.size} {picture.mtime_ns} {picture.width} {picture.height} {picture.metadata or ''}"
    if picture.exif:
        said += " " + picture.exif.as_json()
    said_bytes = picture.path + b"\0" + picture.content_hash + said.encode()
    return hashlib.blake2b(said_bytes, digest_size=8).hexdigest()


def metadata_fields(pictures: Iterable[Picture]) -> tuple[Field, ...]:
    """Choose the fields for metadata: the most frequent keys whose values are all of one kind."""
    seen: dict[str, set[Kind | None]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for picture in pictures:
        for key, value in _metadata(picture).items():
            if value is not None:
                seen[key].add(_kind(value))
                counts[key] += 1
    fields: list[Field] = []
    taken = {field.column for field in FIELDS} | {"metadata", "digest", "vector"}
    for key, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        kind = _common(seen[key])
        column = _column(key, taken)
        if kind is not None and len(fields) < _MOST_FIELDS:
            taken.add(column)
            fields.append(Field(column, kind, key))
    return tuple(fields)


def payload_of(picture: Picture, fields: Sequence[Field]) -> Payload:
    """Make the payload of a picture's point. Bytes of a path that are not UTF-8 are shown as \\xNN."""
    metadata = _metadata(picture)
    path = os.fsencode(path_text(picture.path)).decode("utf-8", "backslashreplace")
    item_id = id_of_path(picture.path)
    payload: Payload = {"path": composed(path), "size": picture.size, "width": picture.width}
    payload |= {"height": picture.height, "mtime": picture.mtime_ns / 1e9, "digest": digest_of(picture)}
    payload["name"] = composed(path.rpartition("/")[2])
    if item_id is not None:
        payload["id"] = composed(item_id)
    else:
        payload["folder"] = composed(path.rpartition("/")[0]) or "/"
    if picture.exif:
        payload |= _exif_payload(picture.exif)
    if picture.metadata:
        payload["metadata"] = picture.metadata
    for field in fields:
        if field.key is not None and (value := _stored(metadata.get(field.key), field.kind)) is not None:
            payload[field.column] = value
    return payload


def picture_of_payload(payload: Mapping[str, Any], place: str) -> Picture:
    """Make the record of a picture of what `payload_of` made: without a content hash, its time in microseconds.

    Bytes of a path that are not UTF-8 stay \\xNN. Metadata that was left out for its length is None.

    Raises:
        SinkError: the payload is not one that clipdex writes.
    """
    path, metadata, item = payload.get("path"), payload.get("metadata"), payload.get("id")
    numbers = [payload.get(name, 0) for name in ("size", "width", "height", "mtime")]
    if (
        not isinstance(path, str)
        or not isinstance(metadata, (str, type(None)))
        or not all(is_number(each) and abs(each) < 1 << 63 for each in numbers)
    ):
        raise SinkError(f"{place} has a point that clipdex did not write: {dict(payload)!r:.200}")
    size, width, height = map(int, numbers[:3])
    where = item_path(item) if isinstance(item, str) else os.fsencode(path)
    said = {name: value for name, value in payload.items() if name in _EXIF_NAMES}
    if isinstance(rating := said.get("rating"), float) and rating.is_integer():  # some have only such numbers
        said["rating"] = int(rating)
    exif = Exif.of(**said)
    mtime_ns = round(numbers[3] * 1e6) * 1_000
    return Picture(where, size, mtime_ns, b"", width, height, metadata, exif=exif if exif else None)


def _exif_payload(exif: Exif) -> Payload:
    said = exif.as_dict()
    number = None if exif.taken is None else taken_number(exif.taken)
    said |= {} if number is None else {"taken_at": number}
    stored = {field.column: _stored(said.get(field.column), field.kind) for field in _EXIF}
    return {column: value for column, value in stored.items() if value is not None}


def checked_condition(condition: Condition, fields: Sequence[Field]) -> Condition:
    """Replace a condition's `meta.KEY` by columns, and check its values against their kinds.

    Raises:
        InvalidArgument: a field is not in the collection, or is of another kind than a value.
    """
    if isinstance(condition, (AllOf, AnyOf)):
        return type(condition)(tuple(checked_condition(part, fields) for part in condition.parts))
    if condition.field == "modified":
        return checked_condition(_of_mtime(condition), fields)
    field = _field(condition.field, fields)
    if isinstance(condition, Present):
        return Present(field.column, condition.present)
    if isinstance(condition, Contains):
        return Contains(field.column, _checked(condition.value, field), condition.negated, field.kind)
    if field.kind == "texts":
        of = field.column if field.key is None else f"meta, {field.key!r}"
        raise InvalidArgument(f"{condition.field} is a list in this collection: write  has({of}, VALUE)")
    if isinstance(condition, OneOf):
        values = tuple(_checked(each, field) for each in condition.values)
        return OneOf(field.column, values, condition.negated, field.kind)
    if field.kind == "bool" and condition.operator not in ("=", "<>"):
        raise InvalidArgument(f"{condition.field} is true or false in this collection: compare it by = or <>")
    value = _checked(condition.value, field)
    if field.column == "taken" and isinstance(value, str) and condition.operator not in ("=", "<>"):
        bound = first_taken(value, after=condition.operator in ("<=", ">"))
        return Compare("taken_at", "<" if condition.operator in ("<", "<=") else ">=", bound, "int")
    return Compare(field.column, condition.operator, value, field.kind)


def _of_mtime(condition: Compare | OneOf | Contains | Present) -> Condition:
    """Replace a condition on `modified`, a text, by one on `mtime`, the seconds that it says."""
    if isinstance(condition, Present):
        return Present("mtime", condition.present)
    if isinstance(condition, Compare):
        return _compared_mtime(condition.operator, condition.value)
    if isinstance(condition, Contains):
        raise InvalidArgument("modified is no list: compare it with a date, as in  modified >= '2024-06-01'")
    each = tuple(_compared_mtime("<>" if condition.negated else "=", value) for value in condition.values)
    return AllOf(each) if condition.negated else AnyOf(each)


def _compared_mtime(operator: Operator, value: int | float | str) -> Condition:
    if not isinstance(value, str):
        raise InvalidArgument(f"the filter compares modified with {value!r:.60}; it is a text; mtime is a number")
    first, past = (_from_second(first_mtime(value, after=after)) for after in (False, True))
    before, until = (_opposite(bound) for bound in (first, past))
    if operator == "=":
        return AllOf((first, until))
    if operator == "<>":
        return AnyOf((before, past))
    return {"<": before, "<=": until, ">": past, ">=": first}[operator]


def _from_second(second: int) -> Compare:
    """Pictures whose time, rounded towards 1970 as `modified` is, is this second or later."""
    return Compare("mtime", ">=", second) if second > 0 else Compare("mtime", ">", second - 1)


def _opposite(bound: Compare) -> Compare:
    return replace(bound, operator="<" if bound.operator == ">=" else "<=")


def _field(name: str, fields: Sequence[Field]) -> Field:
    key = name.removeprefix("meta.") if name.startswith("meta.") else None
    for field in fields:
        if field.key == key and (key is not None or field.column == name):
            return field
    shown_fields = [each for each in fields if each.column not in _HIDDEN]
    known = ", ".join(f"meta ->> '{each.key}'" if each.key is not None else each.column for each in shown_fields)
    shown = name if key is None else f"meta ->> '{key}'"
    raise InvalidArgument(f"the filter uses {shown}, which is no field of this collection; its fields are {known}")


def _checked(value: int | float | str, field: Field) -> int | float | str:
    number = isinstance(value, (int, float))
    if field.kind == "bool" and value in (0, 1):
        return bool(value)
    if number == (field.kind in ("int", "real")) and field.kind != "bool":
        return value
    kind = {"int": "a number", "real": "a number", "bool": "true or false (1 or 0)"}.get(field.kind, "a text")
    said = field.column if field.key is None else f"meta ->> '{field.key}'"
    raise InvalidArgument(f"the filter compares {said} with {value!r:.60}; it is {kind} in this collection")


def _metadata(picture: Picture) -> Mapping[str, Any]:
    if not picture.metadata:
        return {}
    try:
        return parsed_object(picture.metadata)
    except ValueError:
        return {}  # damage, which `verify` reports


def _kind(value: object) -> Kind | None:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(1 << 53) <= value <= 1 << 53 else None
    if isinstance(value, float):
        return "real"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "texts"
    return None


def _common(kinds: set[Kind | None]) -> Kind | None:
    if kinds == {"int", "real"}:
        return "real"
    if kinds == {"text", "texts"}:
        return "texts"
    return next(iter(kinds)) if len(kinds) == 1 else None


def _stored(value: Any, kind: Kind) -> Value | None:
    """Return a value of metadata as a field of this kind has it; None where it has no such value."""
    own = _kind(value)
    if value is None or own is None:
        return None
    if kind == "texts":
        texts = [value] if own == "text" else value if own == "texts" else []
        kept = [short for each in texts[:_MOST_TEXTS] if (short := _short(each)) is not None]
        return kept or None
    if kind == "real" and own in ("int", "real"):
        return float(value)
    if own != kind:
        return None
    return _short(value) if isinstance(value, str) else value


def _short(text: str) -> str | None:
    said = composed(plain_text(text))
    return said if len(said.encode()) <= _LONGEST_TEXT and "\0" not in said else None


def _column(key: str, taken: set[str]) -> str:
    """Name the column of a key: letters, digits and underscores, unique."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", key).strip("_").lower()[:40]
    column = f"meta_{plain}" if plain else "meta_x"
    if column in taken or plain != key:
        column += "_" + hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()
    return column
