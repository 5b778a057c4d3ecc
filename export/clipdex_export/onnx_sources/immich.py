"""Immich: a directory for each tower, with OpenCLIP's preprocess_cfg and a tokenizer of transformers."""

from __future__ import annotations

from clipdex_export.onnx_sources.layout import ImageFiles, Layout, TextFiles
from clipdex_export.onnx_sources.model_files import Repository

__all__ = ["IMMICH"]

_VISUAL, _TEXTUAL = "visual/model.onnx", "textual/model.onnx"


def _image(repository: Repository) -> ImageFiles | None:
    if _VISUAL not in repository:
        return None
    return ImageFiles(_VISUAL, "visual/preprocess_cfg.json", "open_clip", repository.first_of("config.json"))


def _text(repository: Repository) -> TextFiles | None:
    if _TEXTUAL not in repository:
        return None
    return TextFiles(
        _TEXTUAL,
        "textual/tokenizer.json",
        "open_clip",
        repository.first_of("textual/tokenizer_config.json"),
        repository.first_of("config.json"),
    )


IMMICH = Layout(
    name="immich",
    title="Immich",
    examples="`immich-app/ViT-B-32__openai`, `immich-app/ViT-B-16-SigLIP__webli`, "
    "`immich-app/XLM-Roberta-Large-Vit-B-32`",
    marks="visual/model.onnx and textual/model.onnx",
    image_tower="`visual/model.onnx`, `visual/preprocess_cfg.json`",
    text_tower="`textual/model.onnx`, `textual/tokenizer.json`",
    image=_image,
    text=_text,
)
