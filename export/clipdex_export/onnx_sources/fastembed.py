"""FastEmbed: a repository for each tower, given as a pair."""

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

__all__ = ["FASTEMBED"]


def _image(repository: Repository) -> ImageFiles | None:
    graph = best_of_twins(repository, "model") if "preprocessor_config.json" in repository else None
    return image_beside(repository, graph)


def _text(repository: Repository) -> TextFiles | None:
    graph = best_of_twins(repository, "model") if "tokenizer.json" in repository else None
    return text_beside(repository, graph)


FASTEMBED = Layout(
    name="fastembed",
    title="FastEmbed (Qdrant)",
    examples="`pair:Qdrant/clip-ViT-B-32-vision+Qdrant/clip-ViT-B-32-text`",
    marks="model.onnx with one of the two",
    image_tower="`model.onnx`, `preprocessor_config.json` of the first",
    text_tower="`model.onnx`, `tokenizer.json` of the second",
    image=_image,
    text=_text,
)
