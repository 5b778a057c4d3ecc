"""What a run would do, without doing it: no server, no decoding, nothing written.

The vectors of the files are read, as a run does: what is damaged would be embedded again.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from clipdex.base.records import Failure
from clipdex.index.reader import Index
from clipdex.index.sound_files import SoundFiles
from clipdex.pipeline.departures import departures
from clipdex.pipeline.standing import Check, Standing, checked, keeps_its_row, standing_of
from clipdex.sources.census import PassedOver, Surveyed
from clipdex.sources.opening import as_source
from clipdex.sources.source import Source

__all__ = ["Plan", "plan_run"]


@dataclass(frozen=True)
class Plan:
    """discovered = new + changed + reread + unchanged + failed + retried + damaged.

    new: files the index does not know. changed: files with another size or time than they had. reread: files that
    are read and compared, because their ctime is another or `check` is "content". failed: files that failed before
    and have not changed, or cannot be looked at; retried: those of them that will be tried again. damaged:
    files whose row no longer fits its checksum, which are embedded again. vanished: rows whose file is gone.
    left_out: rows whose file is there, but left out of its folder now; they leave too. passed_over: what else the
    folders hold.
    """

    discovered: int
    new: int
    changed: int
    unchanged: int
    failed: int
    vanished: int
    retried: int = 0
    damaged: int = 0
    reread: int = 0
    left_out: int = 0
    passed_over: PassedOver = field(default_factory=PassedOver)


def plan_run(
    source: Source | str | os.PathLike[str], index: Path, *, retry_failures: bool = False, check: Check = "stat"
) -> Plan:
    """Compare a folder, or another source, with an index; with nothing, where the index is not there yet.

    retry_failures, check: as for `index_pictures`.

    Raises:
        InvalidArgument: `check` is none that there is.
        SourceError: the source is missing or cannot be read.
        IndexFault: what is at `index` is no index, or damaged.
    """
    source = as_source(source)
    checked(check)
    count = dict.fromkeys(Standing, 0)
    damaged = gone = out = 0
    failures: list[Failure] = []
    with ExitStack() as stack:
        opened = files = None
        if os.path.lexists(index):
            opened = stack.enter_context(Index.open(index))
            files = stack.enter_context(SoundFiles.open(index))
        for file in source.files(failures.append):
            known = files.known(file.path) if files else None
            if known is None and files is not None and files.has(file.path):
                damaged += 1
            else:
                count[standing_of(file, known, check=check, retry_failures=retry_failures)] += 1
        for failure in failures:
            stays = files is not None and keeps_its_row(failure, files.known)
            count[Standing.UNCHANGED if stays else Standing.FAILED] += 1
        if opened is not None:
            gone, out = map(len, departures(source, (path for _, path in opened.live_paths())))
    return Plan(
        discovered=sum(count.values()) + damaged,
        new=count[Standing.NEW],
        changed=count[Standing.CHANGED],
        unchanged=count[Standing.UNCHANGED],
        failed=count[Standing.FAILED],
        vanished=gone,
        retried=count[Standing.RETRIED],
        damaged=damaged,
        reread=count[Standing.REREAD],
        left_out=out,
        passed_over=source.passed_over() if isinstance(source, Surveyed) else PassedOver(),
    )
