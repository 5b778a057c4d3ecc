"""What a client learns from a server before its first request: which model, its card, its limits."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipdex.assets import SHA256_PARAMETER, Assets, cached_assets
from clipdex.card import check_model_name
from clipdex.errors import DeadlineExceeded, ModelNotFound, ServerUnreachable
from clipdex.wire import ModelConfig, ServerInfo, Transport

__all__ = ["Discovered", "ask", "discover", "served_models"]

_LOG = logging.getLogger("clipdex")

_PARTS = ("assets", "image", "text")
_WHOLE = np.iinfo(np.int64).max
_PAUSE_S = 0.25


@dataclass(frozen=True)
class Discovered:
    """One clipdex model on a server: its name, the configuration of its two towers, and what came with it."""

    server: ServerInfo
    name: str
    assets: Assets
    image: ModelConfig
    text: ModelConfig


def served_models(triton_models: Iterable[str]) -> list[str]:
    """The clipdex models among Triton's: those whose image, text and assets parts are all there."""
    present = set(triton_models)
    names = {name.removesuffix("_assets") for name in present if name.endswith("_assets")}
    return sorted(name for name in names if all(f"{name}_{part}" in present for part in _PARTS))


def discover(
    transport: Transport, model: str | None, *, timeout_s: float, wait_s: float, cache_dir: Path
) -> Discovered:
    """Ask a server for a model, and for `wait_s` seconds again while it or the model is not there yet.

    Raises:
        ServerUnreachable, DeadlineExceeded, ModelNotFound: not there, or not in that time.
    """
    began = time.monotonic()
    told = False
    while True:
        left = began + wait_s - time.monotonic()
        try:
            return _with_remark(
                ask(transport, model, min(timeout_s, max(left, _PAUSE_S)) if wait_s else timeout_s, cache_dir)
            )
        except (ServerUnreachable, DeadlineExceeded, ModelNotFound) as exc:
            left = began + wait_s - time.monotonic()
            if not wait_s:
                raise
            if left <= 0:
                raise type(exc)(f"{exc} (waited {wait_s:g} s)") from exc
            if not told:
                _LOG.info("%s; waiting up to %g s", exc, wait_s)
                told = True
            time.sleep(min(_PAUSE_S, left))


def _with_remark(found: Discovered) -> Discovered:
    """Say of a model that was installed against its gate's verdict what is wrong with it."""
    problem = found.assets.card.below_floor
    if problem is not None:
        _LOG.warning("the model %s was installed although %s", found.name, problem)
    return found


def ask(transport: Transport, model: str | None, timeout_s: float, cache_dir: Path) -> Discovered:
    """Ask a server once."""
    server = transport.server(timeout_s)
    name = _choose(model, served_models(transport.models(timeout_s)), transport.address)
    assets = _fetch_assets(transport, f"{name}_assets", timeout_s, cache_dir)
    image = transport.config(f"{name}_image", timeout_s)
    text = transport.config(f"{name}_text", timeout_s)
    return Discovered(server, name, assets, image, text)


def _choose(model: str | None, served: list[str], address: str) -> str:
    if model is not None:
        check_model_name(model)
        if model in served:
            return model
        there = f"it has {', '.join(served)}" if served else "it has none that clipdex exported"
        raise ModelNotFound(f"{address} has no model {model!r}; {there}")
    if len(served) == 1:
        return served[0]
    if not served:
        raise ModelNotFound(
            f"{address} serves no model that clipdex exported (NAME_image, NAME_text, NAME_assets)"
        )
    raise ModelNotFound(f"{address} has several models, name one of them: {', '.join(served)}")


def _fetch_assets(transport: Transport, model: str, timeout_s: float, cache_dir: Path) -> Assets:
    config = transport.config(model, timeout_s)

    def fetch() -> bytes:
        span = {"start": np.zeros(1, np.int64), "end": np.full(1, _WHOLE, np.int64)}
        return transport.submit(model, span, "bytes", timeout_s).result().tobytes()

    return cached_assets(config.parameters.get(SHA256_PARAMETER), fetch, cache_dir)
