"""The type of a layout: where a repository of ready-made ONNX keeps its towers and their settings.

A layout names files and says in which style their settings are written. It decides nothing about the graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from clipdex_export.onnx_sources.model_files import Repository

__all__ = ["ImageFiles", "Layout", "Style", "TextFiles", "best_of_twins", "image_beside", "text_beside"]

# Whose settings: the files of transformers, or OpenCLIP's preprocess_cfg with Immich's cleaning of texts.
Style: TypeAlias = Literal["hugging_face", "open_clip"]

# transformers.js and Optimum write one export several times. In the order in which they are taken: only the first
# is the model itself. Quantized ones are not in the list (tower_file.py says why).
_TWINS = ("", "_fp16")
_QUANTIZED = ("_quantized", "_int8", "_uint8", "_q4", "_q4f16", "_bnb4")


@dataclass(frozen=True)
class ImageFiles:
    """The image tower of a repository. graph, settings: names of files. config: config.json, or None."""

    graph: str
    settings: str
    style: Style
    config: str | None = None


@dataclass(frozen=True)
class TextFiles:
    """The text tower of a repository. graph, tokenizer: names of files.

    tokenizer_config, config: of the JSON files beside them, or None.
    """

    graph: str
    tokenizer: str
    style: Style
    tokenizer_config: str | None = None
    config: str | None = None


@dataclass(frozen=True)
class Layout:
    """A layout. title, examples, marks, image_tower, text_tower: for the table in docs/onnx-sources.md.

    image, text: the towers of a repository, by the names of its files alone; None if it does not have that one.
    """

    name: str
    title: str
    examples: str
    marks: str
    image_tower: str
    text_tower: str
    image: Callable[[Repository], ImageFiles | None]
    text: Callable[[Repository], TextFiles | None]

    def recognises(self, repository: Repository) -> bool:
        """Return whether a repository has this layout, or one half of it."""
        return self.image(repository) is not None or self.text(repository) is not None


def best_of_twins(repository: Repository, stem: str) -> str | None:
    """Return the best file of a tower: `STEM.onnx`, in full or half precision, in onnx/ or beside it.

    If there are only quantized ones, return the first of them: reading it says why it is refused.
    """
    return repository.first_of(
        *(
            f"{folder}{stem}{twin}.onnx"
            for twins in (_TWINS, _QUANTIZED)
            for twin in twins
            for folder in ("onnx/", "")
        )
    )


def image_beside(repository: Repository, graph: str | None) -> ImageFiles | None:
    """Return the image tower in `graph`, if there is one, with the settings of transformers in the root."""
    if graph is None:
        return None
    return ImageFiles(graph, "preprocessor_config.json", "hugging_face", repository.first_of("config.json"))


def text_beside(repository: Repository, graph: str | None) -> TextFiles | None:
    """Return the text tower in `graph`, if there is one, with the tokenizer of transformers in the root."""
    if graph is None:
        return None
    settings = (repository.first_of(name) for name in ("tokenizer_config.json", "config.json"))
    return TextFiles(graph, "tokenizer.json", "hugging_face", *settings)
