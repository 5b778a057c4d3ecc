"""features.neighbours: the nearest descriptors of an index's pictures, by FAISS. docs/local-matching.md.

What FAISS writes for an inverted file of 8-bit codes, which are the descriptors themselves; then one bit for
each row
of the index, set if its descriptors are there; then a footer of 4096 bytes, JSON padded with spaces. FAISS
maps the lists into memory and reads those that a query needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from clipdex.ann.layout import require_ivf_bytes
from clipdex.base.errors import IndexDamaged, IndexFault
from clipdex.base.records import Extent
from clipdex.index.files import fault, open_to_read
from clipdex.index.side.neighbour_footer import (
    AGAIN,
    FOOTER_BYTES,
    NEIGHBOURS_FILE,
    NeighbourFooter,
    sound_ends,
)

__all__ = ["AGAIN", "FOOTER_BYTES", "NEIGHBOURS_FILE", "NeighbourFile", "NeighbourFooter"]


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
                footer, covered = _checked(file, path, extents, width)
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


def _checked(
    file: BinaryIO, path: Path, extents: Sequence[Extent], width: int
) -> tuple[NeighbourFooter, npt.NDArray[np.bool_]]:
    """Check all of a file but its lists, whose bytes FAISS takes as they are."""
    footer, head, covered = sound_ends(file, path, extents)
    if footer.width != width:
        raise IndexFault(f"{path} belongs to another kind of features; {AGAIN}")
    try:
        left = footer.faiss_bytes - footer.lists_at
        require_ivf_bytes(np.frombuffer(head, np.uint8), footer.descriptors, width, footer.lists, left)
    except ValueError as exc:
        raise IndexDamaged(f"{path} is damaged: FAISS cannot read it ({exc}); {AGAIN}") from exc
    bits = np.unpackbits(np.frombuffer(covered, np.uint8), bitorder="little")
    return footer, bits[: footer.rows].astype(np.bool_)
