"""The catalogue of models with short names, such as `vit-b-32`, and the facts by which a user chooses one.

All facts are in `catalogue.json`, each with the source it was taken from; this module reads and checks it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal

from clipdex.base.errors import InvalidArgument
from clipdex.base.json_text import parse_json

__all__ = [
    "CATALOGUE",
    "AvailableModel",
    "Catalogue",
    "available_models",
    "find_available",
    "read_catalogue",
    "resolve",
]

CATALOGUE = Path(__file__).with_name("catalogue.json")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_FACTS = ("size", "languages", "licence", "imagenet", "recall", "ms")  # each has a source

Speed = Literal["fast", "medium", "slow", "very slow"]
# Milliseconds of one run in the published measurement: ViT-B/32, B/16 and L/14 fall into the first three.
_SPEEDS: tuple[tuple[float, Speed], ...] = ((4, "fast"), (10, "medium"), (30, "slow"))


@dataclass(frozen=True)
class AvailableModel:
    """A model of the catalogue. Figures are published ones; None where none was found.

    onnx, torch: sources for `export_model`: ready-made ONNX towers, and a checkpoint that needs PyTorch.
    pixels: side of the input picture. dim: width of an embedding.
    image_mb, text_mb: size of each tower in float32, MB.
    languages: "English", "many", or a number of languages.
    imagenet: zero-shot top-1 accuracy on ImageNet-1k, %.
    recall: mean of recall@1, 5 and 10 of text-to-image search on Crossmodal-3600 in English, %.
    ms: milliseconds of one run, measured on one machine for all models that have it.
    sources: the URL that each of the facts was taken from, by "size", "languages", "licence", "imagenet", …
    """

    name: str
    title: str
    onnx: str | None
    torch: str | None
    pixels: int
    dim: int
    image_mb: int | None
    text_mb: int | None
    languages: str
    licence: str
    imagenet: float | None
    recall: float | None
    ms: float | None
    note: str
    sources: Mapping[str, str]

    @property
    def source(self) -> str:
        """The source to export: the ready-made ONNX towers if there are any, else the checkpoint."""
        source = self.onnx or self.torch
        assert source is not None, "read_catalogue refuses an entry without a source"
        return source

    @property
    def model_name(self) -> str:
        """The default name of its export: `vit_b_32`."""
        return self.name.replace("-", "_")

    @property
    def download_mb(self) -> int | None:
        """The size of both towers, MB; None if one of them is not known."""
        return None if self.image_mb is None or self.text_mb is None else self.image_mb + self.text_mb

    @property
    def speed(self) -> Speed | None:
        """Its speed compared with the others; None if it was not measured."""
        if self.ms is None:
            return None
        return next((speed for limit, speed in _SPEEDS if self.ms <= limit), "very slow")


@dataclass(frozen=True)
class Catalogue:
    """All listed models, the name of the default one, and the date on which the sources were read."""

    models: tuple[AvailableModel, ...]
    default: str
    read: str


def read_catalogue(path: Path = CATALOGUE) -> Catalogue:
    """Read and check a catalogue.

    Raises:
        InvalidArgument: it is not JSON, or an entry is incomplete, repeated or out of range, or a fact has no
            source.
    """
    try:
        data = parse_json(path.read_bytes())
        sources = {key: str(entry["url"]) for key, entry in data["sources"].items()}
        models = tuple(_model(entry, sources) for entry in data["models"])
        names = [model.name for model in models]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidArgument(f"{twice} is listed twice")
        if data["default"] not in names:
            raise InvalidArgument(f"the default {data['default']!r} is not listed")
        return Catalogue(models, data["default"], data["read"])
    except InvalidArgument as exc:
        raise InvalidArgument(f"{path}: {exc}") from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise InvalidArgument(f"{path}: not a catalogue of models: {type(exc).__name__}: {exc}") from exc


@cache
def _read() -> Catalogue:
    return read_catalogue()


def available_models() -> Catalogue:
    """Return the catalogue that comes with clipdex."""
    return _read()


def find_available(name: str) -> AvailableModel | None:
    """Return the model of that name (`vit-b-32`, or `vit_b_32`, as exports are named), or None."""
    wanted = name.replace("_", "-")
    return next((model for model in _read().models if model.name == wanted), None)


def resolve(source: str, source_format: str | None = None) -> str:
    """Resolve a source: return the hub repository of a listed name, and any other source unchanged.

    A directory of that name takes precedence. source_format: "onnx" or "torch"; None for onnx if there is any.

    Raises:
        InvalidArgument: nothing has this name, but a listed name is spelled much like it; or the model is not
            available in that format.
    """
    if os.path.lexists(os.path.expanduser(source)):
        return source
    model = find_available(source)
    if model is not None:
        found = (
            model.source if source_format is None else {"onnx": model.onnx, "torch": model.torch}[source_format]
        )
        if found is None:
            raise InvalidArgument(f"{source} is not available as {source_format}: leave --from out")
        return found
    if _NAME.fullmatch(source):
        near = get_close_matches(source, [model.name for model in _read().models], n=1)
        if near:
            raise InvalidArgument(
                f"{source} is neither a directory nor a listed model; did you mean {near[0]}? "
                "clipdex models --available  lists them"
            )
    return source


def _model(entry: dict[str, Any], urls: Mapping[str, str]) -> AvailableModel:
    """Check one entry; its sources are keys of `urls`."""
    name = entry["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument(f"the name {name!r} is not lower-case words joined by hyphens")
    stated = {fact: key for fact, key in entry["sources"].items() if key is not None}
    unknown = sorted(set(stated) - set(_FACTS)) or sorted(set(stated.values()) - set(urls))
    if unknown:
        raise InvalidArgument(f"{name}: unknown source {unknown[0]!r}")
    model = AvailableModel(**(entry | {"sources": {fact: urls[key] for fact, key in stated.items()}}))
    if not (model.onnx or model.torch):
        raise InvalidArgument(f"{name}: it has no source to export: neither onnx nor torch")
    largest_of = {"imagenet": 100, "recall": 100, "ms": 10**4, "image_mb": 10**5, "text_mb": 10**5}
    for field, largest in largest_of.items():
        value = getattr(model, field)
        if value is not None and not 0 < value <= largest:
            raise InvalidArgument(f"{name}: {field} is {value}; expected more than 0, at most {largest}")
    for field, fact in (("imagenet", "imagenet"), ("recall", "recall"), ("ms", "ms"), ("image_mb", "size")):
        if getattr(model, field) is not None and fact not in stated:
            raise InvalidArgument(f"{name}: {field} has no source")
    if "licence" not in stated or "languages" not in stated:
        raise InvalidArgument(f"{name}: the licence or the languages have no source")
    return model
