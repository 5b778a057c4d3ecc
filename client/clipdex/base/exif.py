"""What a picture's file says of itself: when, where and with what it was taken, its rating and its keywords."""

from __future__ import annotations

import functools
import json
import math
import re
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from clipdex.base.json_text import parse_json
from clipdex.base.spelling import composed

__all__ = ["MOST_KEYWORDS", "Exif", "exif_from_json", "keywords_from_json"]

MOST_KEYWORDS = 500
_LONGEST_WORD, _LONGEST_TITLE, _LONGEST_DESCRIPTION = 200, 1_000, 10_000  # characters
_LONGEST = {
    "make": _LONGEST_WORD,
    "camera": _LONGEST_WORD,
    "lens": _LONGEST_WORD,
    "title": _LONGEST_TITLE,
    "description": _LONGEST_DESCRIPTION,
}
_TAKEN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")
_OFFSET = re.compile(r"[+-](0[0-9]|1[0-4]):[0-5][0-9]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True)
class Exif:
    """What EXIF, XMP and IPTC in a picture's file, or in its sidecar, say of it. None: nothing.

    taken: when, by the camera's clock, as `2024-06-01T17:30:00`. taken_offset: that clock's offset from UTC, as
        `+02:00`.
    make, camera, lens: the camera's maker and model, and the lens.
    latitude, longitude: the place in degrees, of seven decimal places; both or neither.
    rating: 0 to 5; -1 if rejected. keywords: at most 500.
    """

    taken: str | None = None
    taken_offset: str | None = None
    make: str | None = None
    camera: str | None = None
    lens: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    rating: int | None = None
    keywords: tuple[str, ...] = ()
    title: str | None = None
    description: str | None = None

    @classmethod
    def of(cls, **found: Any) -> Exif:
        """Make one of what was found in a file; a value that is not plausible is left out, a long text cut."""
        kept = {name: _text(found.get(name), longest) for name, longest in _LONGEST.items()}
        taken = _taken(found.get("taken"))
        offset = found.get("taken_offset")
        sound = taken is not None and isinstance(offset, str) and _OFFSET.fullmatch(offset) is not None
        latitude, longitude = _place(found.get("latitude"), found.get("longitude"))
        rating = found.get("rating")
        return cls(
            **kept,
            taken=taken,
            taken_offset=offset if sound else None,
            latitude=latitude,
            longitude=longitude,
            rating=rating if type(rating) is int and -1 <= rating <= 5 else None,
            keywords=_words(found.get("keywords")),
        )

    def __bool__(self) -> bool:
        """Return whether it says anything."""
        return self is not _NOTHING and self != _NOTHING

    def as_dict(self) -> dict[str, Any]:
        """Return what it says, by name, for JSON."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        found["keywords"] = list(self.keywords)
        return {name: value for name, value in found.items() if value is not None and value != []}

    def as_json(self) -> str:
        """Return what it says as a JSON object."""
        return json.dumps(self.as_dict(), ensure_ascii=False, separators=(",", ":"))


_NOTHING = Exif()
_SAYS_NOTHING = ("{}", b"{}")  # most pictures


def exif_from_json(text: str | bytes) -> Exif:
    """Make one of the JSON that `as_json` writes; what is not plausible is left out.

    Raises:
        ValueError: it is not a JSON object.
    """
    if text in _SAYS_NOTHING:
        return _NOTHING
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError("it is not an object")
    return Exif.of(**found)


@functools.lru_cache(maxsize=256)  # many pictures have the same
def keywords_from_json(text: str | None) -> tuple[str, ...]:
    """Return the texts in a JSON list; none if it is not one."""
    try:
        found = [] if text is None else parse_json(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(each for each in found if isinstance(each, str)) if isinstance(found, list) else ()


def _text(value: object, longest: int) -> str | None:
    """Return a text in one piece: without controls and halves of surrogate pairs, composed, and cut."""
    if not isinstance(value, str):
        return None
    value = value[: 4 * longest].encode("utf-8", "replace").decode()
    return composed(_CONTROL.sub(" ", value)).strip()[:longest].strip() or None


def _words(value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        return ()
    words = (_text(each, _LONGEST_WORD) for each in value[: 2 * MOST_KEYWORDS])
    return tuple(dict.fromkeys(word for word in words if word is not None))[:MOST_KEYWORDS]


def _taken(value: object) -> str | None:
    if not isinstance(value, str) or not _TAKEN.fullmatch(value):
        return None
    try:
        datetime.fromisoformat(value)
    except ValueError:  # the 31st of February
        return None
    return value


def _place(latitude: object, longitude: object) -> tuple[float | None, float | None]:
    """Return both, rounded to a centimetre; neither if one is missing or impossible, or both are exactly 0."""
    nowhere = (None, None)
    if not isinstance(latitude, (int, float)) or not isinstance(longitude, (int, float)):
        return nowhere
    if not (math.isfinite(latitude) and math.isfinite(longitude)):
        return nowhere
    if abs(latitude) > 90 or abs(longitude) > 180 or latitude == longitude == 0:
        return nowhere  # programs write 0, 0 for a place that they do not know
    return round(latitude, 7), round(longitude, 7)
