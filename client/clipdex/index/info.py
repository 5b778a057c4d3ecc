"""What an index holds, in numbers."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from clipdex.index.row_reader import RowReader
from clipdex.index.side.feature_file import feature_count
from clipdex.index.side.neighbour_footer import neighbour_bytes

__all__ = ["IndexInfo", "info_of"]


@dataclass(frozen=True)
class IndexInfo:
    """Counts, size and dates of an index. failures: by reason. first_commit, last_commit: seconds since 1970.

    with_exif: live rows whose file says something of itself. with_features, feature_bytes: pictures of different
    content that have local features, and the size of these. neighbour_bytes: of the file that finds the nearest of
    their descriptors; 0 if there is none.
    """

    rows: int
    tombstones: int
    failures: dict[str, int]
    bytes_on_disk: int
    first_commit: int | None
    last_commit: int | None
    with_exif: int = 0
    with_features: int = 0
    feature_bytes: int = 0
    neighbour_bytes: int = 0


def info_of(directory: Path, store: RowReader, rows: int, tombstones: int) -> IndexInfo:
    """Count, measure and date an index of so many live rows."""
    first, last = store.commit_times()
    with_features, feature_bytes = feature_count(directory)
    return IndexInfo(
        rows=rows,
        tombstones=tombstones,
        failures=store.failure_counts(),
        bytes_on_disk=sum(_bytes_on_disk(directory / name) for name in os.listdir(directory)),
        first_commit=first,
        last_commit=last,
        with_exif=store.exif_count(),
        with_features=with_features,
        feature_bytes=feature_bytes,
        neighbour_bytes=neighbour_bytes(directory),
    )


def _bytes_on_disk(path: Path) -> int:
    """The disk space of one file; 0 if it has just been removed, as a writer that ends does with the WAL."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    return found.st_blocks * 512 if stat.S_ISREG(found.st_mode) else 0
