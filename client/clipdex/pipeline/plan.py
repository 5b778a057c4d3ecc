"""Dry run: what an indexing run would do, with no server, no decoding and nothing written.

The vectors of the files are checked, as in a run: damaged ones would be embedded again.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field

from clipdex.base.arguments import PathLike, as_path
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
    """The plan of a run. discovered = new + changed + reread + unchanged + failed + retried + damaged.

    new: files that the index does not know. changed: files whose size or time has changed. reread: files to be
    read and compared, because their ctime has changed or `check` is "content". failed: files that failed before
    and have not changed, or cannot be examined. retried: files that failed before and will be retried. damaged:
    files whose row does not match its checksum any more, which will be embedded again. vanished: rows whose file
    is gone. left_out: rows whose file exists, but is now left out of its folder; they will be removed.
    passed_over: what was skipped in the folders.
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
    source: Source | str | os.PathLike[str],
    index: PathLike,
    *,
    retry_failures: bool = False,
    check: Check = "stat",
) -> Plan:
    """Compare a folder or another source with an index, which may not exist yet -> the plan of a run.

    retry_failures, check: as for `index_pictures`.

    Raises:
        InvalidArgument: `check` is unknown.
        SourceError: the source is missing or cannot be read.
        IndexFault: `index` is not an index, or is damaged.
    """
    source = as_source(source)
    index = as_path(index, "the path of an index")
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
