"""Bringing an index of parts up to date: all in turn, or one, so that several processes share the work.

A part is built under a hidden name, and resumed there after a kill. It gets its name when it is first complete.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from clipdex.base.arguments import is_count
from clipdex.base.errors import IndexWriteError, InvalidArgument
from clipdex.index.file_system import lock_file
from clipdex.index.files import sync_directory
from clipdex.index.manifest import Manifest
from clipdex.index.part_plan import PartPlan, is_parted, require_count
from clipdex.model.card import ModelCard
from clipdex.model.formats.icc import IccUse
from clipdex.model.picture_rules import DecodeUse, PictureRules
from clipdex.pipeline.departures import Stranded
from clipdex.pipeline.index_one import require_a_picture
from clipdex.pipeline.report import Progress, RunReport
from clipdex.sources.census import PassedOver
from clipdex.sources.part import Divided, Divisible
from clipdex.sources.source import Source

__all__ = ["chosen_parts", "index_parts", "opened_plan", "part_place", "sum_reports"]


class _RunsOne(Protocol):
    def __call__(
        self, source: Source, index: Path, *, progress: Callable[[Progress], None] | None
    ) -> RunReport: ...


def opened_plan(
    card: ModelCard,
    source: Source,
    directory: Path,
    parts: int | None,
    part: int | None,
    dtype: str,
    icc: IccUse | None,
    decode: DecodeUse | None,
) -> PartPlan:
    """Read the plan of an index of parts, or write it -> the plan, for this model.

    Raises:
        InvalidArgument: `parts`, `part`, `icc` or `decode` do not fit it, or there is none and no `parts`.
        FingerprintMismatch: it is for another model.
        SourceError: there is none, and the source has no picture.
    """
    rules = PictureRules.of(icc, decode)
    if parts is not None:
        require_count(parts)
    if is_parted(directory):
        plan = PartPlan.read(directory)
        wanted = replace(
            plan, parts=plan.parts if parts is None else parts, fingerprint=card.fingerprint, model=card.name
        )
        plan.require_same(wanted, directory)
        plan.manifest.require_rules(icc, decode, directory)
        chosen_parts(plan.parts, part, directory)
        return plan
    if parts is None:
        raise InvalidArgument(
            f"part {part} is given, but {directory} has no parts yet; give their number, too, as --parts N"
        )
    chosen_parts(parts, part, directory)
    require_a_picture(source)
    named = getattr(source, "directory", None)
    text = type(source).__name__ if named is None else os.path.abspath(named)
    manifest = Manifest.of(card, dtype, rules.icc, rules.decode)
    return PartPlan.of(parts, manifest, text).write(directory)


def chosen_parts(parts: int, part: int | None, directory: Path) -> Sequence[int]:
    """Return the numbers of all parts, or of the one given. Raises InvalidArgument if it does not exist."""
    if part is None:
        return range(parts)
    if not is_count(part, 0) or part >= parts:
        raise InvalidArgument(f"there is no part {part!r} of {directory}; expected 0 to {parts - 1}")
    return [part]


def part_place(directory: Path, plan: PartPlan, number: int) -> tuple[Path, Path]:
    """Return where a part is when it is complete, and where it is built until then."""
    name = plan.names()[number]
    return directory / name, directory / f".{name.removesuffix('.clipdex')}.building"


def index_parts(
    run: _RunsOne,
    source: Source,
    directory: Path,
    plan: PartPlan,
    part: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Bring all parts up to date with a source, or one -> the sum of their reports.

    Args:
        run: brings one index up to date.
        part: the only one.

    Raises:
        IndexLocked: another process is at work on the part.
        InvalidArgument: there is no such part.
        Whatever `run` raises; parts that were complete by then stay so.
    """
    started = time.monotonic()
    divided = Divided(source, plan.parts, plan.part_of)
    together = _Together(divided, progress)
    reports = []
    numbers = chosen_parts(plan.parts, part, directory)
    for number in numbers:
        tell = None if progress is None else (together if len(numbers) > 1 else progress)
        home, building = part_place(directory, plan, number)
        with _alone(directory, building, number):
            place = home if os.path.lexists(home) else building
            reports.append(run(divided.of(number), place, progress=tell))
            if place is building:
                _complete(building, home)
        together.add(reports[-1])
    report = sum_reports(reports, divided.source)
    return replace(report, seconds=time.monotonic() - started)


@contextmanager
def _alone(directory: Path, building: Path, number: int) -> Iterator[None]:
    """Lock a part for the block, so that nobody else looks where it is while it gets its name."""
    busy = f"part {number} of {directory} is being written to by another process; wait for it, or stop it"
    fd = lock_file(building.with_suffix(".lock"), directory, busy)
    try:
        yield
    finally:
        os.close(fd)


def _complete(building: Path, home: Path) -> None:
    try:
        building.rename(home)
        sync_directory(home.parent)
    except OSError as exc:
        raise IndexWriteError(f"{home}: cannot be created: {exc.strerror}") from exc


class _Together:
    """Reports the progress of parts in turn as that of one run."""

    def __init__(self, divided: Divided, tell: Callable[[Progress], None] | None) -> None:
        self._divided, self._tell = divided, tell
        self._indexed = self._unchanged = self._failed = 0
        self._busy = 0.0
        self._stages: Counter[str] = Counter()

    def add(self, report: RunReport) -> None:
        """Add what a part has come to."""
        self._indexed += report.indexed
        self._unchanged += report.unchanged
        self._failed += report.failed
        self._busy += _busy(report.indexed, report.images_per_s)
        self._stages.update(report.stage_seconds)

    def __call__(self, p: Progress) -> None:
        sizes, indexed = self._divided.sizes, self._indexed + p.indexed
        busy = self._busy + _busy(p.indexed, p.images_per_s)
        assert self._tell is not None
        self._tell(
            replace(
                p,
                indexed=indexed,
                unchanged=self._unchanged + p.unchanged,
                failed=self._failed + p.failed,
                total=sum(sizes.values()) if len(sizes) == self._divided.parts else None,
                images_per_s=indexed / busy if busy else 0.0,
                stage_seconds=self._stages + Counter(p.stage_seconds),
            )
        )


def _busy(indexed: int, images_per_s: float) -> float:
    """The seconds that pictures took at a rate."""
    return indexed / images_per_s if images_per_s else 0.0


def sum_reports(reports: Sequence[RunReport], source: Source) -> RunReport:
    """Add up the reports of parts of a source, made one after the other."""
    counts = (
        *("discovered", "indexed", "recognised", "unchanged", "failed"),
        *("removed", "rows", "unseen", "left_out", "changed"),
    )
    busy = sum(_busy(each.indexed, each.images_per_s) for each in reports)
    stages: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    for each in reports:
        stages.update(each.stage_seconds)
        folders.update(each.stranded.folders)
    sums = {name: sum(getattr(each, name) for each in reports) for name in counts}
    # Each part has looked at the whole source, unless it need not.
    skipped = [each.passed_over for each in (reports if isinstance(source, Divisible) else reports[-1:])]
    return replace(
        reports[-1],
        **sums,
        images_per_s=sums["indexed"] / busy if busy else 0.0,
        stage_seconds=dict(stages),
        passed_over=PassedOver.sum(skipped),
        stranded=Stranded(dict(folders), sum(each.stranded.files for each in reports)),
    )
