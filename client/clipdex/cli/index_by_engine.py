"""`clipdex index --engine ray`: what a node is told, from the options of the command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from clipdex.base.errors import InvalidArgument, ModelNotFound
from clipdex.cli.connection_options import Connection
from clipdex.cli.engine_options import EngineOptions
from clipdex.client.client import SharedMemoryUse, connect
from clipdex.client.held_models import list_models
from clipdex.model.card import ModelCard
from clipdex.model.formats.icc import IccUse
from clipdex.model.picture_rules import DecodeUse
from clipdex.pipeline.engines.index_by_ray import index_by_ray
from clipdex.pipeline.engines.part_job import Recipe
from clipdex.pipeline.engines.ray_cluster import import_ray
from clipdex.pipeline.report import Progress, RunReport
from clipdex.sources import Source

__all__ = ["index_by_engine"]

_INPROC = "inproc:"


def index_by_engine(
    options: EngineOptions,
    connection: Connection,
    open_source: Callable[[], Source],
    out: Path,
    parts: int | None,
    *,
    dtype: str,
    icc: IccUse | None,
    decode: DecodeUse | None,
    settings: Mapping[str, Any],
    shared_memory: SharedMemoryUse,
    progress: Callable[[Progress], None] | None,
) -> tuple[RunReport, str]:
    """Bring an index of parts up to date by an engine -> the report, and the model's fingerprint.

    settings: for the run of a part.

    Raises:
        InvalidArgument: two options contradict each other.
        What `index_by_ray` and connecting to a server raise.
    """
    import_ray()  # before a server is asked
    card, repository = _card(options, connection), options.serve_on_workers
    recipe = Recipe(
        open_source,
        partial(
            connect,
            model=card.name,
            wait_s=connection.wait_s,
            credentials=connection.credentials,
            shared_memory=shared_memory,
        ),
        _everywhere(connection.server),
        dict(settings) | {"workers": settings.get("workers") or options.cpus},
        None if repository is None else partial(_served, os.path.abspath(repository), card.name),
    )
    report = index_by_ray(
        recipe, card, out, parts, options.use, dtype=dtype, icc=icc, decode=decode, progress=progress
    )
    return report, card.fingerprint


def _card(options: EngineOptions, connection: Connection) -> ModelCard:
    """Return the card of the model that the parts are made with."""
    repository = options.serve_on_workers
    if repository is None:
        with connection.open(shared_memory="never") as client:
            return client.card
    if connection.server_is_typed:
        raise InvalidArgument(
            f"--server {connection.server} and --serve-on-workers {repository} are both given; give one"
        )
    held = list_models(_INPROC + str(repository), model=connection.model)
    if len(held) != 1:
        names = ", ".join(each.name for each in held) or "none"
        raise ModelNotFound(f"{repository} must have one model, or --model name one; it has {names}")
    if held[0].card is None:
        raise ModelNotFound(f"the model {held[0].name} in {repository} cannot be read: {held[0].error}")
    return held[0].card


def _everywhere(server: str) -> str:
    """Return an address that means the same in any working directory."""
    return _INPROC + os.path.abspath(server.removeprefix(_INPROC)) if server.startswith(_INPROC) else server


@contextmanager
def _served(repository: str, model: str) -> Iterator[str]:
    """Start a Triton that serves a model, on the node where this is called -> its address."""
    from clipdex_server import LocalTriton

    with LocalTriton(repository, models=[f"{model}_{part}" for part in ("image", "text", "assets")]) as server:
        yield server.address
