"""Checks, before the work begins, that the packages are installed which an export needs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from clipdex.base.extras import is_installed, needs, require_installed

__all__ = ["need_export_extra", "need_onnx_extra"]

# What is imported: what is installed.
_ONNX: Mapping[str, str] = MappingProxyType(
    {"onnx": "onnx", "onnxruntime": "onnxruntime", "huggingface_hub": "huggingface_hub"}
)
_TORCH: Mapping[str, str] = MappingProxyType(
    {
        "torch": "torch",
        "transformers": "transformers",
        "onnx": "onnx",
        "onnxruntime": "onnxruntime",
        "safetensors": "safetensors",
        "skimage": "scikit-image",
        "sentencepiece": "sentencepiece",
    }
)

_PURPOSE = "exporting a model"


def need_onnx_extra(purpose: str = _PURPOSE) -> None:
    """Raise MissingExtra for the first package that ready-made ONNX files need and that cannot be imported."""
    _need(_ONNX, "onnx", purpose)


def need_export_extra(purpose: str = _PURPOSE) -> None:
    """Raise MissingExtra for the first package that PyTorch checkpoints need and that cannot be imported."""
    _need(_TORCH, "export", purpose)
    # transformers imports torchvision if it is installed; if that fails, for instance because torch is of another
    # build, it reports only that CLIPModel cannot be imported.
    if is_installed("torchvision"):
        with needs("torchvision", "torchvision", "open-clip", purpose):
            import_module("torchvision")


def _need(packages: Mapping[str, str], extra: str, purpose: str) -> None:
    for module, package in packages.items():
        require_installed(module, package, extra, purpose)
    for module, package in packages.items():  # quick, or soon needed
        with needs(module, package, extra, purpose):
            import_module(module)
