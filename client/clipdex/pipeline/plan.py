"""What a run would do, without doing it: no server, no decoding, nothing written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from clipdex.index.reader import Index
from clipdex.index.rows import Failure
from clipdex.sources.opening import as_source
from clipdex.sources.source import Source

__all__ = ["Plan", "plan_run"]


@dataclass(frozen=True)
class Plan:
    """discovered = new + changed + unchanged + failed.

    new: files the index does not know. changed: files with another size or time than they had. failed: files
    that failed before and have not changed, or cannot be looked at. vanished: rows whose file is gone.
    """

    discovered: int
    new: int
    changed: int
    unchanged: int
    failed: int
    vanished: int


def plan_run(source: Source | str | os.PathLike[str], index: Path) -> Plan:
    """Compare a folder, or another source, with an index; with nothing, where the index is not there yet.

    Raises:
        SourceError: the source is missing or cannot be read.
        IndexFault: what is at `index` is no index, or damaged.
    """
    source = as_source(source)
    opened = Index.open(index) if os.path.lexists(index) else None
    new = changed = unchanged = failed = gone = 0
    failures: list[Failure] = []
    try:
        for file in source.files(failures.append):
            known = opened.known(file.path) if opened else None
            if known is None:
                new += 1
            elif (known.size, known.mtime_ns) != (file.size, file.mtime_ns):
                changed += 1
            elif known.row is None:
                failed += 1
            else:
                unchanged += 1
        if opened is not None:
            gone = len(source.vanished(path for _, path in opened.live_paths()))
    finally:
        if opened is not None:
            opened.close()
    failed += len(failures)
    return Plan(new + changed + unchanged + failed, new, changed, unchanged, failed, gone)
