"""features.neighbours as bytes: its name, its footer, and what of it is checked. docs/index-format.md."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from clipdex.base.errors import IndexDamaged, IndexFault
from clipdex.base.json_text import parse_plain_json
from clipdex.base.records import Extent
from clipdex.index.files import fault, open_to_read
from clipdex.index.manifest import json_crc32c
from clipdex.index.side.building import is_of_first
from clipdex.index.stored import is_stored_count

__all__ = [
    "AGAIN",
    "FOOTER_BYTES",
    "NEIGHBOURS_FILE",
    "POINTS_A_ROW",
    "NeighbourFooter",
    "bytes_crc32c",
    "neighbour_bytes",
    "neighbour_damages",
    "sound_ends",
]

NEIGHBOURS_FILE = "features.neighbours"
FORMAT, FORMAT_VERSION = "clipdex-neighbours", 2
_WITHOUT_CHECKSUM = 1  # the version whose lists have none
FOOTER_BYTES = 4096
POINTS_A_ROW = 1 << 14
AGAIN = "build it again with  clipdex features build"

_BYTES_AT_ONCE = 8 << 20


@dataclass(frozen=True)
class NeighbourFooter:
    """The end of a file for the first `rows` rows of an index, identified by `extents`, and their features.

    stamp: that of the features when it was built. width: bytes of a descriptor. descriptors: how many there are.
    lists: of the inverted file. faiss_bytes: where the flags of the rows begin. lists_at: where the lists begin.
    head_crc32c: of all before the lists, and of the flags. lists_crc32c: of the lists; None in version 1.
    """

    rows: int
    extents: str
    stamp: str
    width: int
    descriptors: int
    lists: int
    lists_at: int
    faiss_bytes: int
    head_crc32c: int
    lists_crc32c: int | None = None

    def to_bytes(self) -> bytes:
        """Encode the footer as the last bytes of the file."""
        own = asdict(self)
        version = FORMAT_VERSION
        if self.lists_crc32c is None:
            del own["lists_crc32c"]
            version = _WITHOUT_CHECKSUM
        data = {"format": FORMAT, "format_version": version} | own
        return json.dumps(data | {"crc32c": json_crc32c(data)}).encode().ljust(FOOTER_BYTES - 1) + b"\n"

    @classmethod
    def from_bytes(cls, raw: bytes, path: Path) -> NeighbourFooter:
        """Read a footer. Raises IndexDamaged."""
        try:
            data = parse_plain_json(raw)
            crc32c = data.pop("crc32c")
            sound = crc32c == json_crc32c(data)
            form, version = data.pop("format"), data.pop("format_version")
            if form != FORMAT or version not in (_WITHOUT_CHECKSUM, FORMAT_VERSION):
                raise IndexFault(f"{path} has a format that this clipdex does not know; {AGAIN}")
            if (version == FORMAT_VERSION) != ("lists_crc32c" in data):
                raise ValueError("it has not the fields of its version")
            footer = cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise IndexDamaged(f"{path} is damaged: its footer cannot be read; {AGAIN}") from exc
        counts = (footer.rows, footer.width, footer.descriptors, footer.lists, footer.lists_at)
        texts = (footer.extents, footer.stamp)
        checksums = [footer.head_crc32c, *([footer.lists_crc32c] if version == FORMAT_VERSION else [])]
        if not (
            sound
            and all(map(is_stored_count, (*counts, footer.faiss_bytes, *checksums)))
            and all(type(text) is str for text in texts)
            and 0 < footer.lists_at <= footer.faiss_bytes
        ):
            raise IndexDamaged(f"{path} is damaged: its footer is not what was written; {AGAIN}")
        return footer

    def require(self, extents: Sequence[Extent], path: Path) -> None:
        """Raise IndexFault unless the file was built for the first of these extents."""
        if not is_of_first(extents, self.rows, self.extents):
            raise IndexFault(f"{path} belongs to other rows than the index has now; {AGAIN}")


def sound_ends(file: BinaryIO, path: Path, extents: Sequence[Extent]) -> tuple[NeighbourFooter, bytes, bytes]:
    """Check all of an open file but its lists -> its footer, the bytes before the lists, and the bits of the rows.

    Raises:
        IndexDamaged: it is not what was written.
        IndexFault: it is of other rows than the first of these extents.
        OSError: it cannot be read.
    """
    fd = file.fileno()
    size = os.fstat(fd).st_size
    damaged = IndexDamaged(f"{path} is damaged: its bytes are not what was written; {AGAIN}")
    if size < FOOTER_BYTES:
        raise damaged
    footer = NeighbourFooter.from_bytes(os.pread(fd, FOOTER_BYTES, size - FOOTER_BYTES), path)
    footer.require(extents, path)
    flags = -(-footer.rows // 8)
    if size != footer.faiss_bytes + flags + FOOTER_BYTES:
        raise damaged
    head = os.pread(fd, footer.lists_at, 0)
    covered = os.pread(fd, flags, footer.faiss_bytes)
    if google_crc32c.value(head + covered) != footer.head_crc32c:
        raise damaged
    return footer, head, covered


def neighbour_damages(directory: Path, extents: Sequence[Extent]) -> list[str]:
    """Check the file of an index, if there is one -> what is damaged. Raises IndexFault if it cannot be read now.

    Lists of version 1 have no checksum: of these it checks only that each descriptor is of a row that has some.
    """
    path = directory / NEIGHBOURS_FILE
    try:
        with open_to_read(path) as file:
            footer, head, covered = sound_ends(file, path, extents)
            if not _lists_are_sound(file, footer, head, covered):
                return [f"{path} is damaged: its lists are not what was written; {AGAIN}"]
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise fault(path, exc, f"; {AGAIN}") from exc
    except IndexFault as exc:
        return [str(exc)]
    return []


def neighbour_bytes(directory: Path) -> int:
    """Return the size of the file of an index; 0 if there is none."""
    try:
        return (directory / NEIGHBOURS_FILE).stat().st_size
    except OSError:
        return 0


def bytes_crc32c(fd: int, start: int, end: int) -> int:
    """Return the CRC-32C of the bytes of a file from `start` to `end`, read some at a time. Raises OSError."""
    crc32c = 0
    for some in _read(fd, start, end):
        crc32c = google_crc32c.extend(crc32c, some)
    return int(crc32c)


def _lists_are_sound(file: BinaryIO, footer: NeighbourFooter, head: bytes, covered: bytes) -> bool:
    width, room = footer.width, footer.faiss_bytes - footer.lists_at
    if 8 * footer.lists > len(head) or room != footer.descriptors * (width + 8):
        return False
    sizes = np.frombuffer(head[len(head) - 8 * footer.lists :], "<u8")
    if (sizes > footer.descriptors).any() or int(sizes.sum()) != footer.descriptors:
        return False
    fd = file.fileno()
    if footer.lists_crc32c is not None and (
        bytes_crc32c(fd, footer.lists_at, footer.faiss_bytes) != footer.lists_crc32c
    ):
        return False
    has = np.unpackbits(np.frombuffer(covered, np.uint8), bitorder="little")[: footer.rows].astype(np.bool_)
    at = footer.lists_at
    for count in sizes.tolist():
        at += count * width  # a list has all its descriptors, then all their ids
        for some in _read(fd, at, at + 8 * count):
            rows = np.frombuffer(some[: len(some) // 8 * 8], "<i8") // POINTS_A_ROW
            if len(some) % 8 or (rows < 0).any() or (rows >= footer.rows).any() or not has[rows].all():
                return False
        at += 8 * count
    return True


def _read(fd: int, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of a file from `start` to `end`, some at a time; fewer where it ends before."""
    for at in range(start, end, _BYTES_AT_ONCE):
        yield os.pread(fd, min(_BYTES_AT_ONCE, end - at), at)
