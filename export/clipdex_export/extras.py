"""The packages of the `export` extra, looked for before any work begins."""

from __future__ import annotations

from importlib.util import find_spec

from clipdex.errors import MissingExtra

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


def need_export_extra() -> None:
    """Raise MissingExtra for the first package of the extra that is not installed; import none."""
    for module, package in _PACKAGES.items():
        if find_spec(module) is None:
            raise MissingExtra(package, "export", "exporting a model")
