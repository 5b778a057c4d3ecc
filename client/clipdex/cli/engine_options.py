"""The options of `clipdex index --engine`: where its parts are made, and with how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from clipdex.base.errors import InvalidArgument
from clipdex.cli.common import is_typed
from clipdex.cli.panels import ENGINE
from clipdex.cli.splicing import splice
from clipdex.pipeline.engines.index_by_ray import RayUse

__all__ = ["EngineOptions", "may_use_engine"]


class Engine(str, Enum):
    """What makes the parts of an index elsewhere."""

    ray = "ray"


@dataclass(frozen=True)
class EngineOptions:
    """Where and how parts are made. serve_on_workers: the repository that a Triton beside each part serves."""

    use: RayUse
    cpus: int
    serve_on_workers: Path | None = None


def _options(
    ctx: typer.Context,
    engine: Annotated[
        Engine | None,
        typer.Option(
            help="Have the parts made by the nodes of a Ray cluster, as many at a time as it has room for.",
            show_default=False,
            rich_help_panel=ENGINE,
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Head of the cluster; auto for the one that was started on this machine (default RAY_ADDRESS, or "
            "else a cluster of this machine alone, for this run).",
            show_default=False,
            rich_help_panel=ENGINE,
        ),
    ] = None,
    part_cpus: Annotated[
        int,
        typer.Option(
            min=1,
            help="CPUs for each part; also the number of its decoding processes, without --workers.",
            rich_help_panel=ENGINE,
        ),
    ] = 1,
    part_gpus: Annotated[
        float, typer.Option(min=0, help="GPUs for each part, for --serve-on-workers.", rich_help_panel=ENGINE)
    ] = 0.0,
    part_retries: Annotated[
        int,
        typer.Option(
            min=0,
            help="How often to try a part again after its process, node or server was lost.",
            rich_help_panel=ENGINE,
        ),
    ] = 3,
    parts_at_once: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Largest number of parts at a time (default as many as there is room for).",
            show_default=False,
            rich_help_panel=ENGINE,
        ),
    ] = None,
    serve_on_workers: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Instead of --server: start a Triton beside each part, which serves this model repository.",
            show_default=False,
            rich_help_panel=ENGINE,
        ),
    ] = None,
) -> EngineOptions | None:
    """Read the options. None without --engine, which the others need."""
    others = ("ray_address", "part_cpus", "part_gpus", "part_retries", "parts_at_once", "serve_on_workers")
    if engine is None:
        if given := [name for name in others if is_typed(ctx, name)]:
            raise InvalidArgument(f"--{given[0].replace('_', '-')} is for --engine ray, which is not given")
        return None
    use = RayUse(ray_address, part_cpus, part_gpus, part_retries, parts_at_once)
    return EngineOptions(use, part_cpus, serve_on_workers)


def may_use_engine(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `engine` (EngineOptions or None) by the options above."""
    return splice(command, "engine", _options)
