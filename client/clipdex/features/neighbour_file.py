"""features.neighbours: the nearest descriptors of an index's pictures, by FAISS. docs/local-matching.md.

What FAISS writes for an inverted file of 8-bit codes, which are the descriptors themselves; then one bit for
each row
of the index, set if its descriptors are there; then a footer of 4096 bytes, JSON padded with spaces. FAISS
maps the lists into memory and reads those that a query needs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from clipdex.ann.layout import require_ivf_bytes
from clipdex.base.errors import IndexDamaged, IndexFault
from clipdex.base.json_text import parse_plain_json
from clipdex.base.records import Extent
from clipdex.index.files import fault, open_to_read
from clipdex.index.manifest import json_crc32c
from clipdex.index.side.building import digest
from clipdex.index.stored import is_stored_count

__all__ = ["AGAIN", "FOOTER_BYTES", "NEIGHBOURS_FILE", "NeighbourFile", "NeighbourFooter", "neighbours_state"]

NEIGHBOURS_FILE = "features.neighbours"
FORMAT, FORMAT_VERSION = "clipdex-neighbours", 1
FOOTER_BYTES = 4096
AGAIN = "build it again with  clipdex features build"


@dataclass(frozen=True)
class NeighbourFooter:
    """The end of a file for the first `rows` rows of an index, identified by `extents`, and their features.

    stamp: that of the features when it was built. width: bytes of a descriptor. descriptors: how many there are.
    lists: of the inverted file. faiss_bytes: where the flags of the rows begin. lists_at: where the lists begin.
    head_crc32c: of all before the lists, and of the flags.
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

    def to_bytes(self) -> bytes:
        """Encode the footer as the last bytes of the file."""
        data = {"format": FORMAT, "format_version": FORMAT_VERSION} | asdict(self)
        return json.dumps(data | {"crc32c": json_crc32c(data)}).encode().ljust(FOOTER_BYTES - 1) + b"\n"

    @classmethod
    def from_bytes(cls, raw: bytes, path: Path) -> NeighbourFooter:
        """Read a footer. Raises IndexDamaged."""
        try:
            data = parse_plain_json(raw)
            crc32c = data.pop("crc32c")
            sound = crc32c == json_crc32c(data)
            known = (data.pop("format"), data.pop("format_version")) == (FORMAT, FORMAT_VERSION)
            if not known:
                raise IndexFault(f"{path} has a format that this clipdex does not know; {AGAIN}")
            footer = cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise IndexDamaged(f"{path} is damaged: its footer cannot be read; {AGAIN}") from exc
        counts = (footer.rows, footer.width, footer.descriptors, footer.lists, footer.lists_at)
        texts = (footer.extents, footer.stamp)
        if not (
            sound
            and all(map(is_stored_count, (*counts, footer.faiss_bytes, footer.head_crc32c)))
            and all(type(text) is str for text in texts)
            and 0 < footer.lists_at <= footer.faiss_bytes
        ):
            raise IndexDamaged(f"{path} is damaged: its footer is not what was written; {AGAIN}")
        return footer

    def require(self, extents: Sequence[Extent], path: Path) -> None:
        """Raise IndexFault unless the file was built for the first of these extents."""
        ends = np.cumsum([0, *(extent.row_count for extent in extents)]).tolist()
        if self.rows not in ends or digest(extents[: ends.index(self.rows)]) != self.extents:
            raise IndexFault(f"{path} belongs to other rows than the index has now; {AGAIN}")


class NeighbourFile:
    """The file, checked and opened by FAISS. covered: bool (rows,), whether it has the descriptors of a row."""

    def __init__(
        self, faiss: Any, found: Any, footer: NeighbourFooter, covered: npt.NDArray[np.bool_], path: Path
    ) -> None:
        self.footer, self.covered = footer, covered
        self._faiss, self._found, self._path = faiss, found, path

    @classmethod
    def open(
        cls, import_faiss: Callable[[], Any], directory: Path, extents: Sequence[Extent], width: int
    ) -> NeighbourFile | None:
        """Check the file of an index and map it; None if there is none.

        import_faiss: called only if there is one.

        Raises:
            MissingExtra: FAISS is not installed.
            IndexFault: it is of other rows or another kind of features, or cannot be read.
            IndexDamaged: it is not what was written.
        """
        path = directory / NEIGHBOURS_FILE
        try:
            with open_to_read(path) as file:
                footer, covered = _checked(file.fileno(), path, extents, width)
                # By the descriptor: what FAISS opens is what was checked.
                os.lseek(file.fileno(), 0, os.SEEK_SET)
                faiss = import_faiss()
                found = faiss.read_index(f"/dev/fd/{file.fileno()}", faiss.IO_FLAG_MMAP)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise fault(path, exc, f"; {AGAIN}") from exc
        except RuntimeError as exc:  # FAISS's own error: its text has C++ source lines in it
            raise IndexDamaged(f"{path} is damaged: FAISS cannot read it; {AGAIN}") from exc
        if found.ntotal != footer.descriptors or found.d != footer.width or not hasattr(found, "nlist"):
            raise IndexDamaged(f"{path} is damaged: it is not what its footer says; {AGAIN}")
        return cls(faiss, found, footer, covered, path)

    def search(
        self, descriptors: npt.NDArray[np.float32], k: int, probes: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Find the k nearest of each -> squared distances float32 (n, k), ids int64 (n, k), -1 for none."""
        asked = np.ascontiguousarray(descriptors, np.float32)
        parameters = self._faiss.SearchParametersIVF(nprobe=min(probes, self.footer.lists))
        try:
            distances, ids = self._found.search(asked, k, params=parameters)
        except RuntimeError as exc:
            raise IndexDamaged(f"{self._path} is damaged: FAISS cannot search it; {AGAIN}") from exc
        return distances, ids


def neighbours_state(directory: Path) -> tuple[int, ...] | None:
    """Return what tells one file of an index from another that replaces it; None if there is none."""
    try:
        found = os.lstat(directory / NEIGHBOURS_FILE)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _checked(
    fd: int, path: Path, extents: Sequence[Extent], width: int
) -> tuple[NeighbourFooter, npt.NDArray[np.bool_]]:
    """Check all of a file but its lists, whose bytes FAISS takes as they are."""
    size = os.fstat(fd).st_size
    damaged = IndexDamaged(f"{path} is damaged: its bytes are not what was written; {AGAIN}")
    if size < FOOTER_BYTES:
        raise damaged
    footer = NeighbourFooter.from_bytes(os.pread(fd, FOOTER_BYTES, size - FOOTER_BYTES), path)
    footer.require(extents, path)
    if footer.width != width:
        raise IndexFault(f"{path} belongs to another kind of features; {AGAIN}")
    flags = -(-footer.rows // 8)
    if size != footer.faiss_bytes + flags + FOOTER_BYTES:
        raise damaged
    head = os.pread(fd, footer.lists_at, 0)
    covered = os.pread(fd, flags, footer.faiss_bytes)
    if google_crc32c.value(head + covered) != footer.head_crc32c:
        raise damaged
    try:
        left = footer.faiss_bytes - footer.lists_at
        require_ivf_bytes(np.frombuffer(head, np.uint8), footer.descriptors, width, footer.lists, left)
    except ValueError as exc:
        raise IndexDamaged(f"{path} is damaged: FAISS cannot read it ({exc}); {AGAIN}") from exc
    bits = np.unpackbits(np.frombuffer(covered, np.uint8), bitorder="little")
    return footer, bits[: footer.rows].astype(np.bool_)
