"""Optimum: both towers in one model.onnx, which also computes the logits."""

from __future__ import annotations

from clipdex_export.onnx_sources.layout import (
    ImageFiles,
    Layout,
    TextFiles,
    best_of_twins,
    image_beside,
    text_beside,
)
from clipdex_export.onnx_sources.model_files import Repository

__all__ = ["OPTIMUM", "joint_graph"]


def joint_graph(repository: Repository) -> str | None:
    """Return the name of the file with both towers; None if the repository has none."""
    both = "preprocessor_config.json" in repository and "tokenizer.json" in repository
    return best_of_twins(repository, "model") if both else None


def _image(repository: Repository) -> ImageFiles | None:
    graph = joint_graph(repository)
    return None if graph is None else image_beside(repository, graph)


def _text(repository: Repository) -> TextFiles | None:
    graph = joint_graph(repository)
    return None if graph is None else text_beside(repository, graph)


OPTIMUM = Layout(
    name="optimum",
    title="Optimum",
    examples="a directory of `optimum-cli export onnx`",
    marks="model.onnx with preprocessor_config.json and tokenizer.json",
    image_tower="`model.onnx`, its output `image_embeds`; `preprocessor_config.json`",
    text_tower="`model.onnx`, its output `text_embeds`; `tokenizer.json`",
    image=_image,
    text=_text,
)
