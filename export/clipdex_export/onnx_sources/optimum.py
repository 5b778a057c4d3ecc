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
    return image_beside(repository, joint_graph(repository))


def _text(repository: Repository) -> TextFiles | None:
    return text_beside(repository, joint_graph(repository))


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
