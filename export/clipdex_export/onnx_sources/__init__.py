"""Ready-made ONNX towers: the known layouts of their files, and their adoption without torch.

Not public: docs/design.md lists what is.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from clipdex.base.errors import CheckpointError
from clipdex_export.checkpoint import PAIR_PREFIX, Checkpoint
from clipdex_export.onnx_sources.adopted import Found, adopt
from clipdex_export.onnx_sources.fastembed import FASTEMBED
from clipdex_export.onnx_sources.immich import IMMICH
from clipdex_export.onnx_sources.layout import ImageFiles, Layout, TextFiles
from clipdex_export.onnx_sources.model_files import Repository
from clipdex_export.onnx_sources.optimum import OPTIMUM
from clipdex_export.onnx_sources.transformers_js import TRANSFORMERS_JS

__all__ = ["LAYOUTS", "Layout", "has_onnx", "has_pytorch", "load_onnx"]

# In the order in which they are tried: a repository of transformers.js also has the file that Optimum writes.
LAYOUTS: tuple[Layout, ...] = (IMMICH, TRANSFORMERS_JS, OPTIMUM, FASTEMBED)

# Weights of PyTorch, in all families' files.
_PYTORCH = ("*.safetensors", "pytorch_model*.bin", "open_clip*.bin", "open_clip*.pt")


def has_pytorch(repository: Repository) -> bool:
    """Return whether a source has weights for PyTorch, by the names of its files."""
    names = [PurePosixPath(name) for name in repository.names]
    return any(name.match(pattern) for name in names for pattern in _PYTORCH)


def has_onnx(repository: Repository) -> bool:
    """Return whether a source has ready-made ONNX towers, or one of them, by the names of its files."""
    return any(layout.recognises(repository) for layout in LAYOUTS)


def load_onnx(source: str, *, revision: str | None = None) -> Checkpoint:
    """Load ready-made towers from a local directory, a hub id, or `pair:IMAGE+TEXT` of two.

    Raises:
        CheckpointError: no known layout fits, one of the two towers is missing, or they cannot be adopted.
    """
    return adopt(_pair(source) if source.startswith(PAIR_PREFIX) else _whole(source, revision))


def _whole(source: str, revision: str | None) -> Found:
    repository = Repository.find(source, revision)
    for layout in LAYOUTS:
        images, texts = layout.image(repository), layout.text(repository)
        if images is not None and texts is not None:
            return Found(source, (repository, layout, images), (repository, layout, texts))
    for layout in LAYOUTS:
        halves: tuple[tuple[ImageFiles | TextFiles | None, str, str], ...] = (
            (layout.image(repository), "text", f"pair:{source}+TEXT"),
            (layout.text(repository), "image", f"pair:IMAGE+{source}"),
        )
        for has, lacks, pair in halves:
            if has is not None:
                raise CheckpointError(
                    f"{source} has only one tower ({has.graph}) and no {lacks} tower: give both, as in {pair}"
                )
    raise CheckpointError(f"{source} has no ONNX towers in a known layout: looked for {_marks()}")


def _pair(source: str) -> Found:
    image, plus, text = source.removeprefix(PAIR_PREFIX).rpartition("+")
    if not (image and plus and text):
        raise CheckpointError(f"{source}: expected pair:IMAGE_SOURCE+TEXT_SOURCE")
    with_images, with_texts = Repository.find(image, None), Repository.find(text, None)
    images = ((with_images, layout, files) for layout in LAYOUTS if (files := layout.image(with_images)))
    texts = ((with_texts, layout, found) for layout in LAYOUTS if (found := layout.text(with_texts)))
    first_images, first_texts = next(images, None), next(texts, None)
    if first_images is None:
        raise CheckpointError(f"{image} has no image tower as ONNX in a known layout: looked for {_marks()}")
    if first_texts is None:
        raise CheckpointError(f"{text} has no text tower as ONNX in a known layout: looked for {_marks()}")
    return Found(source, first_images, first_texts)


def _marks() -> str:
    return "; ".join(layout.marks for layout in LAYOUTS)
