"""Discovery of a model on a server before the first request: its name, card and limits."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clipdex.base.errors import (
    CardError,
    DeadlineExceeded,
    FingerprintMismatch,
    ModelNotFound,
    ServerUnreachable,
)
from clipdex.model.assets import SHA256_PARAMETER, Assets, cached_assets, fetch_zip
from clipdex.model.card import ModelCard, check_model_name
from clipdex.wire import ModelConfig, ServerInfo, Transport
from clipdex.wire.transport import FINGERPRINT_PARAMETER

__all__ = ["Discovered", "ask", "check_fingerprint", "discover", "served_models"]

_LOG = logging.getLogger("clipdex")

_PARTS = ("assets", "image", "text")
_PAUSE_S = 0.25


@dataclass(frozen=True)
class Discovered:
    """One clipdex model on a server: its name, assets, and the configuration of its two towers."""

    server: ServerInfo
    name: str
    assets: Assets
    image: ModelConfig
    text: ModelConfig


def served_models(triton_models: Iterable[str]) -> list[str]:
    """Return the clipdex models among Triton's: those with an image, a text and an assets part, sorted."""
    present = set(triton_models)
    names = {name.removesuffix("_assets") for name in present if name.endswith("_assets")}
    return sorted(name for name in names if all(f"{name}_{part}" in present for part in _PARTS))


def discover(
    transport: Transport, model: str | None, *, timeout_s: float, wait_s: float, cache_dir: Path
) -> Discovered:
    """Find a model on a server, retrying for up to `wait_s` seconds while the server or the model is not ready.

    Raises:
        ServerUnreachable, DeadlineExceeded, ModelNotFound: not found, or not within that time.
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
                raise type(exc)(f"{exc} (waited {wait_s:g} s)") from exc.__cause__
            if not told:
                _LOG.info("%s; waiting up to %g s", exc, wait_s)
                told = True
            time.sleep(min(_PAUSE_S, left))


def _with_remark(found: Discovered) -> Discovered:
    """Log a warning if the model was installed although it failed its gate."""
    problem = found.assets.card.below_floor
    if problem is not None:
        _LOG.warning("the model %s was installed although %s", found.name, problem)
    return found


def ask(transport: Transport, model: str | None, timeout_s: float, cache_dir: Path) -> Discovered:
    """Find a model on a server, without retrying; check that its parts fit together."""
    server = transport.server(timeout_s)
    name = _choose(model, served_models(transport.models(timeout_s)), transport.address)
    config = transport.config(f"{name}_assets", timeout_s)
    assets = _fetch_assets(transport, config, timeout_s, cache_dir)
    image = transport.config(f"{name}_image", timeout_s)
    text = transport.config(f"{name}_text", timeout_s)
    card = assets.card
    for part in (config, image, text):
        check_fingerprint(card, part.name, part.parameters, transport.address)
    width = (card.embedding_dim,)
    _check_dims(image.name, image.inputs.get("pixels"), (card.image.size, card.image.size, 3))
    _check_dims(text.name, text.inputs.get("token_ids"), (card.text.context_length,))
    for tower in (image, text):
        _check_dims(tower.name, tower.outputs.get("embedding"), width)
    return Discovered(server, name, assets, image, text)


def check_fingerprint(card: ModelCard, model: str, parameters: Mapping[str, str], address: str) -> None:
    """Raise FingerprintMismatch if a model's configuration states a fingerprint other than its card's.

    A configuration that states none is accepted.
    """
    stated = parameters.get(FINGERPRINT_PARAMETER)
    if stated is not None and stated != card.fingerprint:
        raise FingerprintMismatch(
            f"{address} states the fingerprint {stated[:12]} for {model}, but its card has the fingerprint "
            f"{card.fingerprint[:12]}: they come from different exports; install all three parts of one export"
        )


def _check_dims(model: str, stated: tuple[int, ...] | None, expected: tuple[int, ...]) -> None:
    if stated is None:
        return
    if len(stated) == len(expected) + 1 and stated[0] == -1:
        stated = stated[1:]  # max_batch_size is 0, so the batch is an explicit dimension
    if len(stated) != len(expected) or any(
        dim not in (-1, wanted) for dim, wanted in zip(stated, expected, strict=True)
    ):
        raise CardError(
            f"the configuration of the model {model} has the dimensions {list(stated)}, but its card says "
            f"{list(expected)}: they come from different exports; install all three parts of one export"
        )


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
    raise ModelNotFound(f"{address} has several models; name one of them: {', '.join(served)}")


def _fetch_assets(transport: Transport, config: ModelConfig, timeout_s: float, cache_dir: Path) -> Assets:
    def fetch() -> bytes:
        return fetch_zip(lambda span: transport.submit(config.name, span, "bytes", timeout_s).result())

    return cached_assets(config.parameters.get(SHA256_PARAMETER), fetch, cache_dir)
