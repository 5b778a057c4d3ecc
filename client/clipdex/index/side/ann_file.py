"""vectors.ann: a FAISS index of the rows, and what it was built for. docs/index-format.md.

A header of 4096 bytes, JSON padded with spaces; then the bytes that FAISS writes. For an HNSW graph these are only
the links: the vectors are those of the index.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from clipdex.base.errors import IndexDamaged, IndexFault
from clipdex.base.json_text import parse_plain_json
from clipdex.base.records import Extent
from clipdex.index.files import fault, open_to_read
from clipdex.index.manifest import Manifest, json_crc32c
from clipdex.index.side.building import is_of_first
from clipdex.index.stored import is_stored_count

__all__ = [
    "AGAIN",
    "ANN_FILE",
    "HEADER_BYTES",
    "KINDS",
    "AnnHeader",
    "AnnRecall",
    "ann_damages",
    "read",
]

ANN_FILE = "vectors.ann"
KINDS = ("hnsw", "ivf_pq")
FORMAT, FORMAT_VERSION = "clipdex-ann", 1

HEADER_BYTES = 4096
AGAIN = "build it again with  clipdex ann build"


@dataclass(frozen=True)
class AnnRecall:
    """The share of the exact ten best that were found, measured when the file was built.

    queries: their number. source: where they came from. ms, exact_ms: median milliseconds per query, one at a
    time, with this file and with exact search.
    """

    recall_at_10: float
    queries: int
    source: str
    ms: float
    exact_ms: float


@dataclass(frozen=True)
class AnnHeader:
    """The header of a file for the first `rows` rows of an index, identified by `extents`.

    parameters: as FAISS calls them. faiss_bytes, faiss_crc32c: of what follows the header.
    """

    kind: str
    fingerprint: str
    embedding_dim: int
    dtype: str
    rows: int
    extents: str
    parameters: dict[str, int]
    recall: AnnRecall | None
    faiss_bytes: int
    faiss_crc32c: int

    def to_bytes(self) -> bytes:
        """Encode the header as the first bytes of the file."""
        data = {"format": FORMAT, "format_version": FORMAT_VERSION} | asdict(self)
        return json.dumps(data | {"crc32c": json_crc32c(data)}).encode().ljust(HEADER_BYTES - 1) + b"\n"

    @classmethod
    def from_bytes(cls, raw: bytes, path: Path) -> AnnHeader:
        """Read a header. Raises IndexDamaged."""
        try:
            data = parse_plain_json(raw)
            crc32c = data.pop("crc32c")
            sound = crc32c == json_crc32c(data)
            known = (data.pop("format"), data.pop("format_version")) == (FORMAT, FORMAT_VERSION)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise IndexDamaged(f"{path} is damaged: its header cannot be read; {AGAIN}") from exc
        if not sound:
            raise IndexDamaged(f"{path} is damaged: its header is not what was written; {AGAIN}")
        if not known or data.get("kind") not in KINDS:
            raise IndexFault(f"{path} has a format that this clipdex does not know; {AGAIN}")
        try:
            recall = data.pop("recall")
            header = cls(**data, recall=None if recall is None else AnnRecall(**recall))
        except (KeyError, TypeError) as exc:
            raise IndexDamaged(f"{path} is damaged: its header cannot be read; {AGAIN}") from exc
        if not header._is_plausible():
            raise IndexDamaged(f"{path} is damaged: a field of its header is out of range; {AGAIN}")
        return header

    def _is_plausible(self) -> bool:
        """Return whether all fields have the right types and ranges, which JSON does not ensure."""
        texts, counts = (
            [self.fingerprint, self.dtype, self.extents],
            [self.rows, self.faiss_bytes, self.faiss_crc32c],
        )
        counts.append(self.embedding_dim)
        measured: list[object] = []
        if self.recall is not None:
            texts, counts = [*texts, self.recall.source], [*counts, self.recall.queries]
            measured = [self.recall.recall_at_10, self.recall.ms, self.recall.exact_ms]
        return (
            all(type(text) is str for text in texts)
            and all(map(is_stored_count, counts))
            and all(type(number) in (int, float) for number in measured)
            and type(self.parameters) is dict
            and all(type(number) is int and 0 < number < 1 << 31 for number in self.parameters.values())
            and "effort" in self.parameters
        )

    def require(self, manifest: Manifest, extents: Sequence[Extent], path: Path) -> None:
        """Raise IndexFault unless the file was built for the first of these extents."""
        expected = (manifest.fingerprint, manifest.embedding_dim, manifest.dtype)
        if (self.fingerprint, self.embedding_dim, self.dtype) != expected:
            raise IndexFault(f"{path} belongs to another index; {AGAIN}")
        if not is_of_first(extents, self.rows, self.extents):
            raise IndexFault(f"{path} belongs to other rows than the index has now; {AGAIN}")


def read(
    directory: Path, manifest: Manifest, extents: Sequence[Extent]
) -> tuple[AnnHeader, npt.NDArray[np.uint8]]:
    """Read an index's file -> its header, and the bytes for FAISS.

    Raises:
        IndexFault: there is none, or it is of other rows.
        IndexDamaged: it is not what was written.
    """
    path = directory / ANN_FILE
    try:
        with open_to_read(path) as file:
            header = AnnHeader.from_bytes(file.read(HEADER_BYTES), path)
            header.require(manifest, extents, path)
            if os.fstat(file.fileno()).st_size != HEADER_BYTES + header.faiss_bytes:
                raise IndexDamaged(f"{path} is damaged: its bytes are not what was written; {AGAIN}")
            blob = np.fromfile(file, np.uint8)
    except FileNotFoundError as exc:
        raise IndexFault(f"{directory} has no index for approximate search: {AGAIN}") from exc
    except OSError as exc:
        raise fault(path, exc, f"; {AGAIN}") from exc
    if len(blob) != header.faiss_bytes or google_crc32c.value(blob) != header.faiss_crc32c:
        raise IndexDamaged(f"{path} is damaged: its bytes are not what was written; {AGAIN}")
    return header, blob


def ann_damages(directory: Path, manifest: Manifest, extents: Sequence[Extent]) -> list[str]:
    """Check the file, if there is one -> what is damaged. Raises IndexFault if the system refuses to read it."""
    if not os.path.lexists(directory / ANN_FILE):
        return []
    try:
        read(directory, manifest, extents)
    except IndexFault as exc:
        refused = isinstance(exc.__cause__, OSError) and not isinstance(exc, IndexDamaged)
        if refused and not isinstance(exc.__cause__, FileNotFoundError):
            raise
        return [str(exc)]
    return []
