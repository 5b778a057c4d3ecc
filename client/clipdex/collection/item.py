"""The records of a collection: items to add, stored items, commits."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipdex.base.arrays import Array
from clipdex.base.errors import ImageError, IndexDamaged, InvalidArgument
from clipdex.base.exif import Exif
from clipdex.base.item_paths import check_id, id_of_path, item_path, path_text
from clipdex.base.json_text import parse_json, parsed_object
from clipdex.base.records import NO_METADATA, Picture
from clipdex.looks.signature import perceptual_signature
from clipdex.model.card import ImageSpec
from clipdex.model.images import ImageSource, center_crop, file_bytes, open_for_model
from clipdex.model.picture_exif import exif_of, sidecar_of
from clipdex.model.picture_rules import PictureRules
from clipdex.pipeline.decode_service import DecodedPicture
from clipdex.sources.metadata import metadata_json

__all__ = [
    "Commit",
    "Item",
    "StoredItem",
    "content_hash",
    "decoded",
    "given_vector",
    "item_picture",
    "metadata_of",
    "naming",
    "stored_item",
]

_LONGEST_METADATA = 1 << 20  # characters of JSON


@dataclass(frozen=True)
class Item:
    """A picture, or its vector, to add to a collection under the caller's own id.

    id: 1 to 1,024 bytes of UTF-8, none of them zero.
    image: a path, the bytes of a picture file, an open file, a Pillow image, or a uint8 array (H, W, 3).
    vector: instead of the image, its vector, (D,) of norm 1, of the collection's model.
    metadata: a dict of JSON values, 64 KiB per field and 1 MiB in all.

    Raises:
        InvalidArgument: the id is not valid, not exactly one of image and vector is given, or the metadata is not
            a dict of JSON values.
    """

    id: str
    image: ImageSource | None = field(default=None, repr=False)
    vector: npt.ArrayLike | None = field(default=None, repr=False, compare=False)
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_id(self.id)
        if (self.image is None) == (self.vector is None):
            raise InvalidArgument(
                f"the item {self.id!r} has {'neither' if self.image is None else 'both'} an image "
                f"{'nor' if self.image is None else 'and'} a vector; give one of them"
            )
        metadata_of(self.metadata)


@dataclass(frozen=True)
class StoredItem:
    """A picture of a collection.

    id: None for a picture of a folder or another source. path: `id:ID`, or the path of its file.
    width, height: of the picture as shown, in pixels; 0 if it was added as a vector.
    size: of its file, in bytes. mtime_ns: the time it was added, or its file changed, in nanoseconds since 1970.
    content_hash: 16 bytes, the same for the same bytes of a file.
    exif: what its file says of it; None if that is nothing, or was not read.
    """

    id: str | None
    path: str
    row: int
    width: int
    height: int
    size: int
    mtime_ns: int
    metadata: dict[str, Any]
    content_hash: bytes = field(default=b"", repr=False)
    exif: Exif | None = None


@dataclass(frozen=True)
class Commit:
    """The state of a collection after a commit. pictures: number that a search covers. rows: with tombstones.

    renumbered: the index was compacted, so rows have new numbers; else the rows from the last commit's `rows` on
    are new.
    """

    pictures: int
    rows: int
    renumbered: bool = False


def metadata_of(given: Mapping[str, Any] | None) -> str:
    """Return metadata as the JSON of an object.

    Raises:
        InvalidArgument: it is not a mapping, is larger than 1 MiB, or a field would be lost or changed.
    """
    if given is None:
        return NO_METADATA
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InvalidArgument(f"the metadata is {given!r:.60}; expected a dict of names and what JSON can say")
    text = metadata_json(given)
    if len(text) > _LONGEST_METADATA:
        raise InvalidArgument(f"the metadata takes {len(text):,} characters of JSON; expected 1 MiB at most")
    kept = parse_json(text)
    for name, value in given.items():
        if value is not None and (name not in kept or not _is_said_by(kept[name], value)):
            raise InvalidArgument(
                f"the metadata's field {name!r:.60} cannot be kept: expected what JSON can say, of 64 KiB at most"
            )
    return text


def _is_said_by(kept: object, value: object) -> bool:
    """Return whether parsed JSON says the same as a value; a tuple is a list."""
    if isinstance(value, (list, tuple)):
        return isinstance(kept, list) and len(kept) == len(value) and all(map(_is_said_by, kept, value))
    if isinstance(value, dict):
        return (
            isinstance(kept, dict)
            and kept.keys() == value.keys()
            and all(_is_said_by(kept[name], each) for name, each in value.items())
        )
    return value is None or (isinstance(value, (bool, int, float, str)) and bool(kept == value))


def decoded(
    item: Item, spec: ImageSpec, rules: PictureRules, *, exif: bool = True
) -> tuple[DecodedPicture, ImageSource]:
    """Decode an item's picture in this process -> it, and the bytes of its file, or what it is if it is no file.

    exif: also read what its file, if it is one, says of it.

    Raises:
        ImageError: it cannot be decoded; the message names the item.
        InvalidArgument: it is not a picture.
    """
    assert item.image is not None
    with naming(item):
        data = file_bytes(item.image)
        source = item.image if data is None else data
        opened = open_for_model(source, spec, rules)
    small = opened.resized(spec)
    size, content = (len(data), _hash(data)) if data is not None else _of_pixels(opened.image)
    told = exif_of(data, _sidecar(item.image)) if exif and data is not None else None
    pixels = center_crop(small, spec)
    return DecodedPicture(*opened.size, size, content, perceptual_signature(small), pixels, told), source


@contextmanager
def naming(item: Item) -> Iterator[None]:
    """Let the error of the block name the item."""
    try:
        yield
    except ImageError as exc:
        why = str(exc).removeprefix("the bytes given: ")
        raise ImageError(f"the item {item.id!r}: {why}", reason=exc.reason) from exc
    except InvalidArgument as exc:
        raise InvalidArgument(f"the item {item.id!r}: {exc}") from exc


def item_picture(item: Item, found: DecodedPicture) -> Picture:
    """Return the record of an item's picture, added now."""
    return _picture(item, found.size, found.content_hash, (found.width, found.height), found.phash, found.exif)


def _sidecar(image: ImageSource) -> bytes:
    return sidecar_of(image) if isinstance(image, (str, os.PathLike)) else b""


def given_vector(item: Item, dim: int) -> tuple[Picture, Array]:
    """Check an item's vector -> (its record, the vector: (D,) of a float dtype).

    Raises:
        InvalidArgument: it has another shape or dtype.
    """
    try:
        vector = np.asarray(item.vector)
    except ValueError:
        vector = np.asarray(None)
    if vector.shape != (dim,) or not np.issubdtype(vector.dtype, np.floating):
        raise InvalidArgument(
            f"the item {item.id!r}: its vector is {vector.dtype} {vector.shape}; expected floats of shape ({dim},)"
        )
    wide = np.ascontiguousarray(vector, dtype=np.float32)
    return _picture(item, wide.nbytes, _hash(wide.tobytes(), b"vector"), (0, 0), None, None), wide


def stored_item(row: int, picture: Picture, where: object) -> StoredItem:
    """Return a row's record as a StoredItem. Raises IndexDamaged if its metadata is not a JSON object."""
    p = picture
    try:
        metadata = {} if p.metadata is None else parsed_object(p.metadata)
    except ValueError as exc:
        raise IndexDamaged(
            f"{where}: the metadata of row {row} is not a JSON object; see  clipdex verify"
        ) from exc
    item_id, path = id_of_path(p.path), path_text(p.path)
    return StoredItem(item_id, path, row, p.width, p.height, p.size, p.mtime_ns, metadata, p.content_hash, p.exif)


def content_hash(data: bytes) -> bytes:
    """Return the content hash of a picture file."""
    return _hash(data)


def _picture(
    item: Item, size: int, content: bytes, shape: tuple[int, int], phash: bytes | None, exif: Exif | None
) -> Picture:
    said = metadata_of(item.metadata)
    return Picture(item_path(item.id), size, time.time_ns(), content, *shape, said, phash, exif=exif)


def _of_pixels(image: Image.Image) -> tuple[int, bytes]:
    data = image.tobytes()
    return len(data), _hash(b"%d %d " % image.size + data, b"pixels")


def _hash(data: bytes, kind: bytes = b"") -> bytes:
    """Return the content hash of a file, or of other content, which never equals that of a file."""
    return hashlib.blake2b(data, digest_size=16, person=b"clipdex" + kind if kind else b"").digest()
