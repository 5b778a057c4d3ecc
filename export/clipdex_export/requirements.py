"""A check, before any work begins, that the packages of the `export` extra are installed."""

from __future__ import annotations

from importlib import import_module

from clipdex.base.extras import is_installed, needs, require_installed

__all__ = ["need_export_extra"]

_PACKAGES = {  # what is imported: what is installed
    "torch": "torch",
    "transformers": "transformers",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "safetensors": "safetensors",
    "skimage": "scikit-image",
    "sentencepiece": "sentencepiece",
}

_PURPOSE = "exporting a model"


def need_export_extra() -> None:
    """Raise MissingExtra for the first package of the extra that is not installed or cannot be imported."""
    for module, package in _PACKAGES.items():
        require_installed(module, package, "export", _PURPOSE)
    for module, package in _PACKAGES.items():  # quick, or soon needed
        with needs(module, package, "export", _PURPOSE):
            import_module(module)
    # transformers imports torchvision if it is installed; if that fails, for instance because torch is of another
    # build, it reports only that CLIPModel cannot be imported.
    if is_installed("torchvision"):
        with needs("torchvision", "torchvision", "open-clip", _PURPOSE):
            import_module("torchvision")
