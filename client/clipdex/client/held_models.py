"""The clipdex models that a server or a repository holds, described by their cards."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from clipdex.base.errors import ClipdexError, ModelNotFound, ServerUnreachable
from clipdex.client.discovery import ask, served_models
from clipdex.model.assets import as_cache_dir
from clipdex.model.card import ModelCard
from clipdex.wire import Credentials, Transport, open_transport

__all__ = ["HeldModel", "list_models"]

_INPROC = "inproc:"
_PARTS = ("image", "text", "assets")
_PAUSE_S = 0.25


@dataclass(frozen=True)
class HeldModel:
    """One model on a server or in a repository.

    card: None if it cannot be read; `error` then says why.
    max_batch_size: the most pictures in one request. bytes_on_disk: of all three parts; None on a server.
    runtime: what computes its pictures: the server's backend; of a repository, the runtime here, and why.
    """

    name: str
    card: ModelCard | None
    error: str = ""
    max_batch_size: int = 0
    bytes_on_disk: int | None = None
    runtime: str = ""


def list_models(
    place: str,
    *,
    model: str | None = None,
    credentials: Credentials | None = None,
    timeout_s: float = 60.0,
    wait_s: float = 0.0,
    cache_dir: str | PathLike[str] | None = None,
) -> list[HeldModel]:
    """List the models of a server (`HOST:PORT`), or of a repository (its directory, or `inproc:DIR`), by name.

    A model that cannot be read is in the list, with its error.

    Args:
        place: the server's address or the repository, as above.
        model: list only this one.
        credentials: for a server.
        timeout_s, wait_s: as for `clipdex.connect`.
        cache_dir: as for `clipdex.connect`.

    Raises:
        ServerUnreachable: nothing answers there.
        ModelNotFound: the directory does not exist, or it holds no Triton model, or not the one named.
    """
    place = _INPROC + place if os.path.isdir(place) else place
    if ":" not in place or place.startswith(("/", "./", "../", "~")):
        raise ModelNotFound(
            f"{place}: there is no such directory; give a model repository, or a server's address as HOST:PORT"
        )
    transport = open_transport(place, credentials=credentials)
    repository = Path(place.removeprefix(_INPROC)) if place.startswith(_INPROC) else None
    try:
        names = served_models(_names(transport, timeout_s, wait_s))
        if model is not None and model not in names:
            raise ModelNotFound(f"{transport.address} has no model {model!r}; it has {', '.join(names) or 'none'}")
        chosen = names if model is None else [model]
        return [_look(transport, name, repository, timeout_s, as_cache_dir(cache_dir)) for name in chosen]
    finally:
        transport.close()


def _names(transport: Transport, timeout_s: float, wait_s: float) -> list[str]:
    end = time.monotonic() + wait_s
    while True:
        try:
            return transport.models(timeout_s)
        except ServerUnreachable:
            if time.monotonic() >= end:
                raise
            time.sleep(_PAUSE_S)


def _look(
    transport: Transport, name: str, repository: Path | None, timeout_s: float, cache_dir: Path
) -> HeldModel:
    size = None if repository is None else sum(_bytes_of(repository / f"{name}_{part}") for part in _PARTS)
    try:
        found = ask(transport, name, timeout_s, cache_dir)
    except ServerUnreachable:
        raise
    except ClipdexError as exc:
        return HeldModel(name, None, str(exc), bytes_on_disk=size)
    return HeldModel(name, found.assets.card, "", found.image.max_batch_size, size, found.image.runtime)


def _bytes_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
