"""Reading what a picture says of itself, from its file and the sidecar beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress

from clipdex.base.errors import ImageError
from clipdex.base.exif import Exif
from clipdex.base.regular_files import open_picture
from clipdex.model.formats.embedded import embedded_in
from clipdex.model.formats.iptc import iptc_records
from clipdex.model.formats.tiff_tags import Tags
from clipdex.model.formats.xmp import LONGEST_PACKET, xmp_properties

__all__ = ["exif_of", "sidecar_of"]

_DESCRIPTION, _MAKE, _MODEL, _RATING = 0x010E, 0x010F, 0x0110, 0x4746
_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_ORIGINAL, _DIGITIZED, _ORIGINAL_OFFSET, _DIGITIZED_OFFSET, _LENS = 0x9003, 0x9004, 0x9011, 0x9012, 0xA434
_LONGEST_VALUE = 65_536  # bytes of a tag

_DATE = re.compile(
    r"([0-9]{4})[:-]([0-9]{2})[:-]([0-9]{2})"
    r"(?:[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.[0-9]{1,9})?)?)? ?(Z|[+-][0-9]{2}:[0-9]{2})?"
)
_COORDINATE = re.compile(
    r"([0-9]{1,3}),([0-9]{1,2}(?:\.[0-9]{1,12})?)(?:,([0-9]{1,2}(?:\.[0-9]{1,12})?))?([NSEW])"
)
_NUMBER = re.compile(r"(-?[0-9])(?:\.0{1,9})?")

# By name: XMP's properties, the first that is there.
_PROPERTIES = {
    "make": ("tiff:Make",),
    "camera": ("tiff:Model",),
    "lens": ("exifEX:LensModel", "aux:Lens"),
    "title": ("dc:title",),
    "description": ("dc:description",),
}
_DATES = ("exif:DateTimeOriginal", "photoshop:DateCreated", "xmp:CreateDate")

_Found = dict[str, object]
_TOGETHER = (("taken", "taken_offset"), ("latitude", "longitude"))


def exif_of(data: bytes, sidecar: bytes = b"") -> Exif:
    """Read what a picture's file says of it. What is malformed is absent; no error is raised.

    Where they differ, the sidecar counts, then EXIF, then the file's own XMP, then IPTC; for the rating,
    keywords, title and description XMP counts before EXIF.

    Args:
        data: the whole file.
        sidecar: the bytes of an `.xmp` file beside it.
    """
    try:
        blocks = embedded_in(data)
        exif, within = _of_tags(Tags(blocks.exif)), _of_xmp(blocks.xmp)
        told: _Found = {
            name: within[name] for name in ("rating", "keywords", "title", "description") if name in within
        }
        records = iptc_records(blocks.iptc)
        iptc: _Found = {"keywords": records["keywords"]} if "keywords" in records else {}
        iptc |= {name: records[name][0] for name in ("title", "description") if name in records}
        return _joined([_of_xmp(sidecar), told, exif, within, iptc])
    except (MemoryError, ValueError, ArithmeticError, LookupError):  # whatever it says, the picture is sound
        return Exif()


def sidecar_of(path: bytes | str | os.PathLike[str]) -> bytes:
    """Read the XMP beside a picture's file: `x.jpg.xmp` or `x.xmp`; b"" if there is none, or it is too long."""
    name = os.fsencode(path)
    for beside in (name, os.path.splitext(name)[0]):
        for suffix in (b".xmp", b".XMP"):
            with suppress(OSError, ValueError, ImageError), open_picture(beside + suffix) as file:
                packet = file.read(LONGEST_PACKET + 1)
                return packet if len(packet) <= LONGEST_PACKET else b""
    return b""


def _joined(sources: Iterable[_Found]) -> Exif:
    """Join what sources say, the first first. A date and its offset, and a place, are one source's."""
    found: _Found = {}
    for source in filter(None, sources):
        one = Exif.of(**source).as_dict()
        for names in (*_TOGETHER, *((name,) for name in one if not any(name in pair for pair in _TOGETHER))):
            if names[0] in one and names[0] not in found:
                found |= {name: one[name] for name in names if name in one}
    return Exif.of(**found)


def _of_tags(tags: Tags) -> _Found:
    if not tags.are_there:
        return {}
    first = tags.first((_DESCRIPTION, _MAKE, _MODEL, _RATING, _EXIF_IFD, _GPS_IFD), _LONGEST_VALUE)
    wanted = (_ORIGINAL, _DIGITIZED, _ORIGINAL_OFFSET, _DIGITIZED_OFFSET, _LENS)
    inner = tags.directory(tags.whole(first.get(_EXIF_IFD)), wanted, _LONGEST_VALUE)
    gps = tags.directory(tags.whole(first.get(_GPS_IFD)), (1, 2, 3, 4), _LONGEST_VALUE)
    found: _Found = {
        "description": tags.text(first.get(_DESCRIPTION)),
        "make": tags.text(first.get(_MAKE)),
        "camera": tags.text(first.get(_MODEL)),
        "lens": tags.text(inner.get(_LENS)),
        "rating": tags.whole(first.get(_RATING)),
        "latitude": _degrees(tags, gps, 1, "NS"),
        "longitude": _degrees(tags, gps, 3, "EW"),
    }
    for date, offset in ((_ORIGINAL, _ORIGINAL_OFFSET), (_DIGITIZED, _DIGITIZED_OFFSET)):
        taken = _date(tags.text(inner.get(date)))
        if Exif.of(**taken).taken is not None:
            found |= taken | {"taken_offset": (tags.text(inner.get(offset)) or "").strip()}
            break
    return found


def _degrees(tags: Tags, gps: Mapping[int, tuple[int, bytes]], at: int, signs: str) -> float | None:
    side = (tags.text(gps.get(at)) or "").strip().upper()
    parts = tags.rationals(gps.get(at + 1), 3)
    if parts is None or side not in (signs[0], signs[1]):
        return None
    degrees = parts[0] + parts[1] / 60 + parts[2] / 3600
    return -degrees if side == signs[1] else degrees


def _of_xmp(packet: bytes) -> _Found:
    said = xmp_properties(packet)
    if not said:
        return {}
    found: _Found = {"keywords": said.get("dc:subject")}
    for name, properties in _PROPERTIES.items():
        found[name] = next((said[each][0] for each in properties if each in said), None)
    for each in _DATES:
        taken = _date(said[each][0]) if each in said else {}
        if Exif.of(**taken).taken is not None:
            found |= taken
            break
    rating = _NUMBER.fullmatch(said["xmp:Rating"][0]) if "xmp:Rating" in said else None
    found["rating"] = int(rating[1]) if rating else None
    for name, key, signs in (("latitude", "exif:GPSLatitude", "NS"), ("longitude", "exif:GPSLongitude", "EW")):
        found[name] = _coordinate(said[key][0], signs) if key in said else None
    return found


def _date(text: str | None) -> _Found:
    """Parse a date, with its time and offset if it has them -> what `Exif.of` takes."""
    match = _DATE.fullmatch((text or "").strip()[:40])
    if match is None:
        return {}
    year, month, day, hour, minute, second, offset = match.groups()
    taken = f"{year}-{month}-{day}T{hour or '00'}:{minute or '00'}:{second or '00'}"
    return {"taken": taken, "taken_offset": "+00:00" if offset == "Z" else offset}


def _coordinate(text: str, signs: str) -> float | None:
    """Parse XMP's `48,8.5N` or `48,8,30N`."""
    match = _COORDINATE.fullmatch(text.strip()[:60])
    if match is None or match[4] not in signs:
        return None
    degrees = int(match[1]) + float(match[2]) / 60 + float(match[3] or 0) / 3600
    return -degrees if match[4] == signs[1] else degrees
