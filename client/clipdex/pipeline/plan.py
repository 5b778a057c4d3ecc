"""Dry run: what an indexing run would do, with no server, no decoding and nothing written.

The vectors of the files are checked, as in a run: damaged ones would be embedded again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from clipdex.base.arguments import PathLike, as_path
from clipdex.base.errors import InvalidArgument
from clipdex.base.records import Failure, KnownFile
from clipdex.index.manifest import Manifest
from clipdex.index.part_plan import PartPlan, is_parted, require_for_parts
from clipdex.index.reader import Index
from clipdex.index.sound_files import SoundFiles
from clipdex.model.formats.icc import IccUse
from clipdex.model.picture_rules import DecodeUse, PictureRules
from clipdex.pipeline.departures import departures
from clipdex.pipeline.index_parts import chosen_parts, part_place
from clipdex.pipeline.standing import Check, Standing, checked, keeps_its_row, looked_up, standing_of
from clipdex.sources.census import PassedOver, Surveyed
from clipdex.sources.opening import as_source
from clipdex.sources.part import Divided, Divisible
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
    parts: int | None = None,
    part: int | None = None,
    icc: IccUse | None = None,
    decode: DecodeUse | None = None,
) -> Plan:
    """Compare a folder or another source with an index, which may not exist yet -> the plan of a run.

    retry_failures, check, parts, part, icc, decode: as for `index_pictures`.

    Raises:
        InvalidArgument: `check`, `icc` or `decode` is unknown, or one of them, `parts` or `part` does not fit the
            index.
        SourceError: the source is missing or cannot be read.
        IndexFault: `index` is not an index, or is damaged.
    """
    source = as_source(source)
    index = as_path(index, "the path of an index")
    checked(check)
    PictureRules.of(icc, decode)  # which checks them
    if parts is None and part is None and not is_parted(index):
        if os.path.lexists(index):
            Manifest.read(index).require_rules(icc, decode, index)
        return _plan_one(source, index, retry_failures, check)
    if is_parted(index):
        divider = PartPlan.read(index)
        divider.require_same(replace(divider, parts=divider.parts if parts is None else parts), index)
        divider.manifest.require_rules(icc, decode, index)
    elif parts is None:
        raise InvalidArgument(f"part {part} is given, but {index} has no parts yet; give their number, too")
    else:
        divider = PartPlan.of(parts, Manifest("", "", 1), "")  # what divides the pictures is their number alone
        require_for_parts(index)
    divided = Divided(source, divider.parts, divider.part_of)
    plans = []
    for number in chosen_parts(divider.parts, part, index):
        place = next((each for each in part_place(index, divider, number) if os.path.lexists(each)), None)
        plans.append(_plan_one(divided.of(number), place or index / "none", retry_failures, check))
    counts = [each.name for each in fields(Plan) if each.name != "passed_over"]
    sums = {name: sum(getattr(each, name) for each in plans) for name in counts}
    skipped = [each.passed_over for each in (plans if isinstance(source, Divisible) else plans[-1:])]
    return Plan(**sums, passed_over=PassedOver.sum(skipped))


def _plan_one(source: Source, index: Path, retry_failures: bool, check: Check) -> Plan:
    count = dict.fromkeys(Standing, 0)
    damaged = gone = out = 0
    failures: list[Failure] = []
    with ExitStack() as stack:
        opened = files = None
        if os.path.lexists(index):
            opened = stack.enter_context(Index.open(index))
            files = stack.enter_context(SoundFiles.open(index))
        known_among = files.known_among if files else _none_known
        for file, known in looked_up(source.files(failures.append), known_among):
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


def _none_known(paths: Sequence[bytes]) -> dict[bytes, KnownFile]:
    """Stand for the look-up where there is no index."""
    return {}
