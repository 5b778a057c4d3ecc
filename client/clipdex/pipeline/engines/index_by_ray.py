"""Bringing an index of parts up to date with the help of a Ray cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from clipdex.base.arguments import is_count, is_number
from clipdex.base.errors import InvalidArgument, PartFailed
from clipdex.index.part_plan import is_parted, missing_parts
from clipdex.model.card import ModelCard
from clipdex.model.formats.icc import IccUse
from clipdex.model.picture_rules import DecodeUse
from clipdex.pipeline.engines.overall import Overall
from clipdex.pipeline.engines.part_job import PartJob, Recipe
from clipdex.pipeline.engines.ray_cluster import import_ray, ray_cluster
from clipdex.pipeline.engines.ray_engine import RayParts, Resources, require_room
from clipdex.pipeline.engines.schedule import Effort, make_parts
from clipdex.pipeline.index_parts import opened_plan, sum_reports
from clipdex.pipeline.picture_count import PictureCount
from clipdex.pipeline.report import Progress, RunReport
from clipdex.sources.part import Divisible

__all__ = ["RayUse", "index_by_ray"]


@dataclass(frozen=True)
class RayUse:
    """How to use Ray.

    address: of the cluster, as for `ray_cluster`. cpus, gpus: what is set aside for a part. retries: how often a
    part is tried again. at_once: the most parts at a time; None for as many as the cluster has room for.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3
    at_once: int | None = None

    def __post_init__(self) -> None:
        if not is_number(self.cpus) or not self.cpus >= 0 or not is_number(self.gpus) or not self.gpus >= 0:
            raise InvalidArgument(f"a part is given {self.cpus!r} CPUs and {self.gpus!r} GPUs; expected 0 or more")
        if not is_count(self.retries, 0) or not (self.at_once is None or is_count(self.at_once, 1)):
            raise InvalidArgument(
                f"{self.retries!r} retries and {self.at_once!r} parts at once are asked for; expected 0 or more, "
                "and 1 or more"
            )


def index_by_ray(
    recipe: Recipe,
    card: ModelCard,
    directory: Path,
    parts: int | None,
    use: RayUse,
    *,
    dtype: str = "float16",
    icc: IccUse | None = None,
    decode: DecodeUse | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Bring all parts of an index up to date, each by a task of Ray -> the sum of their reports.

    Args:
        recipe: how a node makes a part.
        card: of the model that the servers have.
        parts: their number; an existing index of parts keeps its own.

    Raises:
        MissingExtra: ray is not installed.
        EngineUnreachable: there is no such cluster.
        InvalidArgument: `parts`, `icc` or `decode` does not fit the index, or there is none and no `parts`.
        SourceError: the source cannot be read here, or has no picture.
        PartFailed: a part failed for good, or was made where this machine does not see it.
    """
    import_ray()
    if parts is None and not is_parted(directory):
        raise InvalidArgument(f"{directory} has no parts yet; give their number as --parts N")
    started = time.monotonic()
    with ray_cluster(use.address) as ray:
        source = recipe.open_source()
        plan = opened_plan(card, source, directory, parts, None, dtype, icc, decode)
        # A part of tars lists its own alone; other sources are counted here, once for all.
        one = isinstance(source, Divisible) or progress is None
        job = PartJob(recipe, os.path.abspath(directory), plan, counts=one)
        resources = Resources(use.cpus, use.gpus)
        require_room(ray, resources, is_ours=use.address is None)
        at_once = min(plan.parts, use.at_once or plan.parts)
        scheduler = RayParts(ray, job, resources, at_once, heard=progress is not None)
        with nullcontext(lambda: None) if one else PictureCount(recipe.open_source()) as total:
            overall = Overall(plan.parts, progress, total)
            effort = Effort(at_once, use.retries)
            reports = make_parts(scheduler, range(plan.parts), directory, effort, overall)
        busy = overall.busy_s()
    if missing := missing_parts(directory, plan):
        raise PartFailed(
            f"{missing[0]} was made, but is not in {directory} here: every node must have that directory, on a "
            "file system that all share"
        )
    report = sum_reports([reports[number] for number in range(plan.parts)], source)
    rate = report.indexed / busy if busy else 0.0
    return replace(report, seconds=time.monotonic() - started, images_per_s=rate)
