"""transformers.js: two files in onnx/, and the settings of transformers beside that directory."""

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

__all__ = ["TRANSFORMERS_JS"]


def _image(repository: Repository) -> ImageFiles | None:
    return image_beside(repository, best_of_twins(repository, "vision_model"))


def _text(repository: Repository) -> TextFiles | None:
    return text_beside(repository, best_of_twins(repository, "text_model"))


TRANSFORMERS_JS = Layout(
    name="transformers.js",
    title="transformers.js",
    examples="`Xenova/clip-vit-base-patch32`, `Xenova/siglip-base-patch16-224`",
    marks="onnx/vision_model.onnx and onnx/text_model.onnx",
    image_tower="`onnx/vision_model.onnx`, `preprocessor_config.json`",
    text_tower="`onnx/text_model.onnx`, `tokenizer.json`",
    image=_image,
    text=_text,
)
