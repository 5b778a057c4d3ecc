"""The rows that are written, some at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clipdex.base.arrays import Array
from clipdex.base.errors import InvalidArgument
from clipdex.index.reader import Index
from clipdex.index.where import Rows

__all__ = ["blocks", "chosen_rows"]

_AT_ONCE_BYTES = 16 << 20


def chosen_rows(index: Index, rows: Array | None) -> Rows:
    """These rows, or if there are none, all live ones: int64, ascending.

    Raises:
        InvalidArgument: one of them is not there, or dead.
    """
    live: Rows = np.delete(np.arange(len(index.vectors), dtype=np.int64), index.tombstones)
    if rows is None:
        return live
    asked: Rows = np.unique(np.asarray(rows, np.int64))
    if not np.isin(asked, live, assume_unique=True).all():
        raise InvalidArgument(f"{index.directory}: a row to write is not there, or its picture is gone")
    return asked


def blocks(index: Index, rows: Rows) -> Iterator[Array]:
    """Their vectors, (n, D) of the index's dtype."""
    step = max(1, _AT_ONCE_BYTES // max(1, index.manifest.row_bytes))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        index.require_sound(some)
        yield index.vectors[some]
