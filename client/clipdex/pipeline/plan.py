"""What a run would do, without doing it: no server, no decoding, nothing written.

The vectors of the files are read, as a run does: what is damaged would be embedded again.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from clipdex.index.reader import Index
from clipdex.index.rows import Failure
from clipdex.index.sound_files import SoundFiles
from clipdex.pipeline.another_try import is_due
from clipdex.sources.opening import as_source
from clipdex.sources.scan import may_be_away
from clipdex.sources.source import Source

__all__ = ["Plan", "plan_run"]


@dataclass(frozen=True)
class Plan:
    """discovered = new + changed + unchanged + failed + retried + damaged.

    new: files the index does not know. changed: files with another size or time than they had. failed: files
    that failed before and have not changed, or cannot be looked at; retried: those of them that will be tried
    again. damaged: files whose row no longer fits its checksum, which are embedded again. vanished: rows whose
    file is gone.
    """

    discovered: int
    new: int
    changed: int
    unchanged: int
    failed: int
    vanished: int
    retried: int = 0
    damaged: int = 0


def plan_run(source: Source | str | os.PathLike[str], index: Path, *, retry_failures: bool = False) -> Plan:
    """Compare a folder, or another source, with an index; with nothing, where the index is not there yet.

    retry_failures: as for `index_pictures`.

    Raises:
        SourceError: the source is missing or cannot be read.
        IndexFault: what is at `index` is no index, or damaged.
    """
    source = as_source(source)
    new = changed = unchanged = failed = retried = damaged = gone = 0
    failures: list[Failure] = []
    with ExitStack() as stack:
        opened = files = None
        if os.path.lexists(index):
            opened = stack.enter_context(Index.open(index))
            files = stack.enter_context(SoundFiles.open(index))
        for file in source.files(failures.append):
            known = files.known(file.path) if files else None
            if known is None and opened is not None and opened.known(file.path) is not None:
                damaged += 1
            elif known is None:
                new += 1
            elif (known.size, known.mtime_ns) != (file.size, file.mtime_ns):
                changed += 1
            elif is_due(known, retry_failures):
                retried += 1
            elif known.row is None:
                failed += 1
            else:
                unchanged += 1
        for failure in failures:
            known = files.known(failure.path) if files and may_be_away(failure) else None
            if known is not None and known.row is not None:
                unchanged += 1  # as for a run
            else:
                failed += 1
        if opened is not None:
            gone = len(source.vanished(path for _, path in opened.live_paths()))
    discovered = new + changed + unchanged + failed + retried + damaged
    return Plan(discovered, new, changed, unchanged, failed, gone, retried, damaged)
